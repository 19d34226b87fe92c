"""GSM8K and HumanEval from small files of their form: prompts, checks, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from dkv.errors import SettingError
from dkv.lab.eval.suites import (
    EMBEDDED,
    embedded,
    gsm8k,
    humaneval,
    humaneval_program,
    passes_humaneval,
    same_final_number,
)
from dkv.storage.jsonl import read_records
from dkv.storage.sandbox import can_cut_network
from dkv.tiny import TASKS, load_eval

SUMS = [
    {"question": "Ann has 1,000 pens and buys 2 more. How many?", "answer": "1000+2=<<1000+2=1002>>1,002\n#### 1,002"},
    {"question": "Ben has 3 cups and loses 4. How many?", "answer": "3-4=-1\n#### -1"},
]
FUNCTION = {
    "task_id": "Toy/0",
    "prompt": 'import math\n\ndef helper(x):\n    return x\n\n\ndef area(r):\n    """ Of a circle. """\n',
    "entry_point": "area",
    "canonical_solution": "    return math.pi * helper(r) ** 2\n",
    "test": "def check(candidate):\n    assert abs(candidate(2) - 12.566) < 0.01\n",
}
BODY = str(FUNCTION["canonical_solution"])
WHOLE = "def area(r):\n    return math.pi * helper(r) ** 2"
needs_no_network = pytest.mark.skipif(not can_cut_network(), reason="this system cannot cut a program off the network")


def written(path: Path, records: list[dict[str, str]]) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["sums.jsonl", "sums.jsonl.gz"])
def test_gsm8k_asks_the_question_and_checks_the_final_number(tmp_path: Path, name: str) -> None:
    suite = gsm8k(written(tmp_path / name, SUMS))
    assert all(str(q.prompt).startswith(s["question"]) for q, s in zip(suite.questions, SUMS, strict=True))
    assert all("####" in str(question.prompt) for question in suite.questions)
    assert [p.check(s["answer"]) for p, s in zip(suite.problems, SUMS, strict=True)] == [True, True]
    assert not suite.problems[0].check(SUMS[1]["answer"])
    assert len(gsm8k(tmp_path / name, count=1).problems) == 1


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("#### 1002", True), ("#### 1,002.00", True), ("#### $1002.", True), ("so 7\n#### 1002 pens", True),
        ("#### 1002\n#### 3", True), ("The answer is 1,002.", True), ("1002 is it, not 7", False),
        ("#### 3\n#### 1002", False), ("#### -1002", False), ("####", False), ("", False), ("no number", False),
    ],
)  # fmt: skip
def test_the_final_number(text: str, right: bool) -> None:
    assert same_final_number(SUMS[0]["answer"], text) is right


@pytest.mark.parametrize(
    "text",
    [
        f"Here:\n```python\n{WHOLE}\n```\nIt uses pi.", f"```\n{WHOLE}\n```", f"```python\n{WHOLE}", WHOLE,
        f"import os\n{WHOLE}", BODY, BODY + "\nprint(area(1))\ndef next_one(x:", f"```python\n{BODY}```",
        f"```python3\n{WHOLE}\n```", f"```bash\npip install x\n```\n```python\n{WHOLE}\n```", f"~~~\n{WHOLE}\n~~~",
        f"Here is the function:\n\n{WHOLE}\n\nIt uses pi.",
    ],
)  # fmt: skip
@needs_no_network
def test_humaneval_runs_every_form_of_a_right_answer(text: str) -> None:
    assert passes_humaneval(FUNCTION, text)


@pytest.mark.parametrize("text", ["    return 3\n", "", "def area(r):\n    return 1 +", "def area(r):\n    exit()"])
@needs_no_network
def test_humaneval_fails_wrong_answers(text: str) -> None:
    assert not passes_humaneval(FUNCTION, text)


def test_helpers_of_the_prompt_stay() -> None:
    assert (
        humaneval_program(FUNCTION, WHOLE).count("def helper")
        == humaneval_program(FUNCTION, BODY).count("def helper")
        == 1
    )
    assert humaneval_program(FUNCTION, WHOLE).count("def area") == 1


def test_humaneval_needs_consent(tmp_path: Path) -> None:
    path = written(tmp_path / "functions.jsonl", [FUNCTION])
    with pytest.raises(SettingError, match="--execute-code"):
        humaneval(path)


@needs_no_network
def test_humaneval_asks_for_the_function(tmp_path: Path) -> None:
    suite = humaneval(written(tmp_path / "functions.jsonl", [FUNCTION]), execute=True)
    assert str(FUNCTION["prompt"]).rstrip() in suite.questions[0].prompt
    assert suite.problems[0].check(BODY)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "holds no examples"), (b"\n\n", "holds no examples"), (b"{\n", "line 1 is not JSON"),
        (b'{"question": "a", "answer": "b"}\n{"question": "a"}\n', "line 2 has no text 'answer'"),
        (b'{"question": 1, "answer": "b"}\n', "line 1 has no text 'question'"), (b"[]\n", "has no text 'question'"),
        (b"\xff\xfe\n", "give a JSONL file"), (b"\x1f\x8b\x08\x00broken", "give a JSONL file"),
    ],
)  # fmt: skip
def test_files_that_are_not_of_the_form(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(SettingError, match=r"gsm8k='.*x'") as raised:
        gsm8k(tmp_path / "x")
    assert expected in str(raised.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="No such file"):
        read_records("gsm8k", tmp_path / "none", ("question",))


@pytest.mark.parametrize("task", EMBEDDED)
def test_embedded_suites_are_the_frozen_sets(task: str) -> None:
    examples, suite = load_eval(task)[:5], embedded(task, 5)
    assert [q.prompt for q in suite.questions] == [e.messages if e.history else e.prompt for e in examples]
    assert all(p.check(e.answer) and not p.check("") for p, e in zip(suite.problems, examples, strict=True))
    assert len(embedded(task).problems) == 400
    assert task in TASKS
