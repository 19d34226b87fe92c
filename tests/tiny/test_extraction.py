"""Programs in answers: fences of every kind, prose around them, and bodies that continue the prompt."""

from __future__ import annotations

import time

import pytest

from dkv.tiny.extraction import FencedBlock, fenced_blocks, program_of

HEAD = 'import math\n\ndef helper(x):\n    return x\n\n\ndef area(r):\n    """ Of a circle. """\n'
WHOLE = "def area(r):\n    return math.pi * helper(r) ** 2"
BODY = "    s = helper(r)\n    if s:\n        s = s ** 2\n    return math.pi * s"
LEFT = BODY.lstrip()
OUT = "s = helper(r)\nif s:\n    s = s ** 2\nreturn math.pi * s"


def indented(code: str, by: int) -> str:
    return "\n".join(" " * by + line for line in code.split("\n"))


def fenced(code: str, tag: str = "python", fence: str = "```", close: bool = True) -> str:
    return f"{fence}{tag}\n{code}\n{fence if close else ''}"


SAMPLE = '    """\n    ```\n    area(1)\n    ```\n    """'
DOCTEST = 'def area(r):\n    """\n    >>> import math\n    """\n    return math.pi * r ** 2'
SESSION = ">>> def area(r):\n...     return math.pi * r ** 2\n...\n>>> area(1)\n3.14159"
STUB = "def area(r):\n    ..."
TABLE = "T = {}\nT[2] = math.pi * 4\ndef area(r):\n    return T[r]\narea(1) if T is None else 0"
LIST = "T = []\nfor r in range(3):\n    T.append(math.pi * r * r)\ndef area(r):\n    return T[r]"
LATER = "def mine(r):\n    return math.pi * r ** 2\nprint(mine(1), area(2) / 0)"
SHELL = fenced("pip install numpy", "bash")
ANSWERS = {
    **{f"tag {tag}": fenced(WHOLE, tag) for tag in ("python", "python3", "py", "Python", "", "{.python}", "text")},
    "a title": fenced(WHOLE, "py3 title=x"),
    "tildes": fenced(WHOLE, "python", "~~~"),
    "longer fence": fenced(WHOLE, "python", "````"),
    "longer fence around one in a docstring": fenced(
        f"def area(r):\n{SAMPLE}\n    return math.pi * r ** 2", "python", "````"
    ),
    "a fence in a docstring": fenced(f"def area(r):\n{SAMPLE}\n    return math.pi * r ** 2"),
    "tildes around backticks": fenced(f"{fenced(WHOLE)}", "markdown", "~~~~"),
    "after a shell block": f"First:\n{SHELL}\nThen:\n{fenced(WHOLE)}\nDone.",
    "after a shell block, other tag": f"{SHELL}\n\n{fenced(WHOLE, 'python3')}",
    "after a shell block that compiles": f"{fenced('ls', 'sh')}\n{fenced(WHOLE)}",
    "before its output": f"{fenced(WHOLE)}\nIt prints:\n{fenced('12.566', 'text')}",
    "left open": f"Here:\n{fenced(WHOLE, close=False)}",
    "left open, with a broken end": f"Here:\n{fenced(WHOLE + chr(10) + 'print(area(', close=False)}",
    "indented fence": "1. Here:\n" + indented(fenced(WHOLE), 3),
    "indented fence by tabs": "\n".join("\t" + line for line in fenced(WHOLE).split("\n")),
    "fence after text": f"Sure! ```python\n{WHOLE}\n```",
    "fence after inline code": f"With `math`: ```python\n{WHOLE}\n```",
    "a fence spoken of": f"I use ``` as a fence here.\n{fenced(WHOLE, 'python3')}",
    "fence closed on the last line": f"```python\n{WHOLE}```",
    "windows lines": fenced(WHOLE).replace("\n", "\r\n"),
    "plain": WHOLE,
    "after prose": f"Here is the function:\n\n{WHOLE}",
    "between prose": f"Here is the function:\n\n{WHOLE}\n\nThis uses pi. It works",
    "before a word that compiles": f"{WHOLE}\nDone",
    "before a note that compiles": f"{WHOLE}\nExplanation: pi",
    "prose between import and function": f"You need math:\nimport math\nThen the function:\n{WHOLE}",
    "indented after prose": f"Here:\n\n{indented(WHOLE, 4)}\n\nDone.",
    "with an import": "from math import pi\n\n\ndef area(r):\n    return pi * r ** 2",
    "helper after it": "def area(r):\n    return mine(r)\n\n\ndef mine(r):\n    return math.pi * r ** 2",
    "helper before it": f"{fenced('def mine(r):' + chr(10) + '    return math.pi * r ** 2')}\nand\n"
    + fenced("def area(r):\n    return mine(r)"),
    "the whole prompt again": fenced(HEAD + BODY),
    "the whole prompt again, unfenced": HEAD + BODY,
    "spaces before the bracket": "def area (r):\n    return math.pi * r ** 2",
    "types": "def area(r: float) -> float:\n    return math.pi * r ** 2",
    "a lambda": "area = lambda r: math.pi * r ** 2",
    "two of them": f"{fenced(WHOLE)}\nor\n{fenced('def area(r):' + chr(10) + '    return math.pi * r * r')}",
    "examples below": fenced(f"{WHOLE}\n\nprint(area(1))"),
    "a wrong test of its own": fenced(f"{WHOLE}\nassert area(1) == 7\nfor r in [1]:\n    assert area(r) == 7"),
    "input and output below": fenced(f"{WHOLE}\nr = float(input())\nprint(area(r))"),
    "input above, by a parameter's name": fenced(f"r = float(input())\n{WHOLE}"),
    "a future import": fenced(f"from __future__ import annotations\n{WHOLE}"),
    "helper in a later block": f"{fenced('def area(r):' + chr(10) + '    return mine(r)')}\nwith\n{fenced(LATER)}",
    "constant in a block of its own": f"{fenced('PI = math.pi')}\n{fenced(WHOLE.replace('math.pi', 'PI'))}",
    "a table that is filled": fenced(TABLE),
    "a list that grows": fenced(LIST),
    "a name given later": fenced("def mine(r):\n    return math.pi * r * r\narea = mine\nprint(area(1) / 0)"),
    "a lambda with a type": "from typing import Callable\narea: Callable = lambda r: math.pi * r ** 2",
    "a stub first": f"{fenced(STUB)}\nso\n{fenced(WHOLE)}",
    "a documented stub first": f"def area(r):\n{SAMPLE}\n    pass\n\nThat is to be written.\n{WHOLE}",
    "thoughts first": f"<think>\n{fenced(STUB)}\n</think>\n{fenced(WHOLE)}",
    "an import that is not there and not needed": fenced(f"import no_such_module as np\n{WHOLE}"),
    "a setting before it": fenced(f"import sys\nsys.setrecursionlimit(3000)\n{WHOLE}"),
    "all names of a module": fenced("from math import *\ndef area(r):\n    return pi * r ** 2"),
    "imports in a block of their own": f"{fenced('import math as m')}\n{fenced(WHOLE.replace('math', 'm'))}",
    "a session": SESSION,
    "a session, fenced": fenced(f">>> import math\n{SESSION}"),
    "a session below": fenced(f"{WHOLE}\n>>> area(1)\n3.14"),
    "a session in the docstring": fenced(DOCTEST),
    "quoted": "\n".join(f"> {line}" for line in fenced(WHOLE).split("\n")),
    "old mac lines": fenced(WHOLE).replace("\n", "\r"),
    "hard spaces": fenced(WHOLE).replace("    ", "\u00a0" * 4),
    "tabs": "def area(r):\n\ts = r\n\treturn math.pi * s ** 2",
    "body": BODY,
    "body without its first indent": LEFT,
    "body without any indent": OUT,
    "body that begins with if": "if r:\n    return math.pi * r ** 2\nreturn 0",
    "body by tabs": BODY.replace("    ", "\t"),
    "body, fenced": fenced(BODY),
    "body without its first indent, fenced": fenced(LEFT),
    "body after prose": f"The rest of it is\n\n{BODY}",
    "body and then more": f"{BODY}\n\nprint(area(1))\ndef next_one(x:",
    "body and then prose": f"{BODY}\n\nThis uses pi.",
    "body without any indent, and then prose": f"{OUT}\n\nThis uses pi.",
    "body after a shell block": f"{SHELL}\n{fenced(BODY)}",
    "body with an odd escape": f"    text = '\\d'\n{BODY}",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ANSWERS)
def test_a_right_function_is_found(name: str) -> None:
    scope: dict[str, object] = {}
    exec(compile(program_of(HEAD, "area", ANSWERS[name]), "answer", "exec", dont_inherit=True), scope)
    area = scope["area"]
    assert callable(area)
    assert area(2) == pytest.approx(12.566, abs=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "    return 3\n",
        "I cannot do this.",
        "def area(r):\n    return 1 +",
        fenced("ls", "sh"),
        "def other(r):\n    return 1",
        fenced("def area(r):\n    return missing(r)") + fenced("print(missing)"),
        fenced(STUB),
    ],
)
def test_a_wrong_answer_stays_wrong(text: str) -> None:
    scope: dict[str, object] = {}
    try:
        exec(program_of(HEAD, "area", text), scope)
        area = scope["area"]
        assert callable(area)
        assert area(2) != pytest.approx(12.566, abs=1e-3)
    except (SyntaxError, NameError):
        return


def test_the_prompts_own_helpers_stand_before_the_function_once() -> None:
    for text in (WHOLE, BODY, fenced(WHOLE), f"Here:\n{WHOLE}\nDone."):
        made = program_of(HEAD, "area", text)
        assert made.count("def helper") == made.count("def area") == made.count("import math") == 1


def test_fences_are_paired() -> None:
    text = "a\n```bash\nx\n```\n~~~\n```\ny\n~~~\n````py\n```\nz\n```\n````\n  ```\n    u\n  ```\n```\nv"
    assert [block.code for block in fenced_blocks(text)] == ["x\n", "```\ny\n", "```\nz\n```\n", "  u\n", "v\n"]
    assert fenced_blocks("```Python3 title=x\nx\n```") == [FencedBlock("python3", "x\n")]


@pytest.mark.parametrize(
    "text",
    ["def area(r):\n" * 3000, "(" * 20_000, "```\n" * 5000, "x = (\n" * 3000, "\0" * 9,
     "def area(r):\n    return 1\n" * 2000, "import a\n?\n" * 2000, "'" * 9999, "-" * 20_000 + "1"],
)  # fmt: skip
def test_odd_answers_cost_little(text: str) -> None:
    began = time.process_time()
    program_of(HEAD, "area", text)
    assert time.process_time() - began < 10
