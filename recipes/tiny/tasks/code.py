"""Small Python functions, checked by running them (HumanEval's form: a signature and a docstring to complete, or an
instruction to write the whole function)."""

from __future__ import annotations

import random
import string
from typing import Any

from dkv.tiny import Example
from recipes.tiny.tasks.base import Generator
from recipes.tiny.tasks.code_templates import TEMPLATES, Template
from recipes.tiny.tasks.vocabulary import pool

GEN_LENGTH = 64
VERBS = pool("make find get build change fix check read step run pick plan")
NOUNS = pool("row part list data case value score group plan line point mark")
LISTS = pool("values items data numbers points scores marks series rows ages prices counts")
INTS = pool("x n size total level amount weight height price age step limit")
STRS = pool("text word name title line label phrase city s note key tag")
PARAMETERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "list": (LISTS,),
    "int": (INTS,),
    "ints": (INTS, INTS),
    "list int": (LISTS, INTS),
    "str": (STRS,),
}


def _blanks(rng: random.Random, template: Template) -> dict[str, Any]:
    """Names and constants for the blanks; the two of a pair always differ."""
    k, m = rng.sample(range(2, template.most + 1), 2)
    c, d = rng.sample(string.ascii_lowercase, 2)
    blanks: dict[str, Any] = {"k": k, "m": m, "c": c, "d": d}
    used: list[str] = []
    for blank, names in zip("pq", PARAMETERS[template.kind], strict=False):
        used.append(rng.choice([name for name in names if name not in used]))
        blanks[blank] = used[-1]
    return blanks


def _inputs(kind: str, b: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Arguments that tell neighbouring constants apart."""
    k, m = b["k"], b["m"]
    ints = [0, 1, 7, k - 1, k, k + 1, m - 1, m, m + 1, 60, 101]
    lists = [[], ints, ints[::-1], list(range(0, 100, 3)), [k * 2, m * 3, k * m]]
    text = f"{b['c']}ab {b['d']}over{b['c']}x a{b['c']}{b['d']}b {b['d']} longest sentences of many {b['c']}words"
    known: dict[str, list[tuple[Any, ...]]] = {
        "list": [(v,) for v in lists],
        "int": [(v,) for v in ints],
        "ints": [(v, w) for v, w in zip(ints, ints[3:] + ints[:3], strict=True)],
        "list int": [(v, w) for v, w in zip(lists, ints[3:], strict=False)],
        "str": [(v,) for v in (text, text[::-1], "", b["c"], b["d"] * 3)],
    }
    return known[kind]


def _tests(name: str, source: str, kind: str, blanks: dict[str, Any]) -> str:
    """Assertions with the values that our own reference function returns."""
    scope: dict[str, Any] = {}
    exec(source, scope)  # noqa: S102 - our own template, never a model's output
    lines = []
    for arguments in _inputs(kind, blanks):
        call = ", ".join(map(repr, arguments))
        lines.append(f"assert {name}({call}) == {scope[name](*arguments)!r}")
    return "\n".join(lines)


def make(rng: random.Random, level: int) -> Example:
    """One template filled in, as a completion or as an instruction; the first levels use fewer templates."""
    template = rng.choice(TEMPLATES[: (12, len(TEMPLATES), len(TEMPLATES))[level]])
    blanks = _blanks(rng, template)
    name = f"{rng.choice(VERBS)}_{rng.choice(NOUNS)}"
    parameters = ", ".join(blanks[b] for b in "pq" if b in blanks)
    doc, body = template.doc.format(**blanks), template.body.format(**blanks)
    signature = f"def {name}({parameters}):"
    if rng.random() < 0.5:
        prompt, answer = f'Complete this function:\n{signature}\n    """{doc}"""', body
    else:
        prompt, answer = f"Write a Python function {name}({parameters}). {doc}", f"{signature}\n{body}"
    # the function's name is wording; the body, with its constants, is the essence
    tests = _tests(name, f"{signature}\n{body}", template.kind, blanks)
    return Example("code", prompt, answer, GEN_LENGTH, body, tests)


TASK = Generator.of("code", make)
