"""GSM8K (Cobbe et al., arXiv 2110.14168) from a local file of its published form: `question`, and `answer` ending in
`#### 42`. Zero-shot; the question goes through the chat template where there is one.
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import partial
from pathlib import Path

from dkv.eval.files import read_records
from dkv.eval.questions import Question, digest
from dkv.eval.suite import Problem, Suite

__all__ = ["GEN_LENGTH", "check", "gsm8k", "number_of"]

GEN_LENGTH = 256

_ASKED = "\n\nSolve the problem step by step. End with one more line: #### and the final number."
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


def gsm8k(path: Path, count: int | None = None) -> Suite:
    """The first `count` problems of the file. Raises SettingError."""
    return Suite("gsm8k", tuple(map(_problem, read_records("gsm8k", path, ("question", "answer"), count))))


def _problem(record: dict[str, str]) -> Problem:
    question = Question(record["question"] + _ASKED, GEN_LENGTH)
    return Problem(question, partial(check, record["answer"]), digest({"answer": record["answer"]}))


def check(answer: str, text: str) -> bool:
    """Whether the final numbers of the reference and of the text are equal."""
    wanted = number_of(answer)
    return wanted is not None and number_of(text) == wanted


def number_of(text: str) -> Decimal | None:
    """The first number after the last `####`; without that mark the last number of the text. Commas group digits."""
    _, mark, after = text.rpartition("####")
    found = _NUMBER.findall(after if mark else text)
    if not found:
        return None
    return Decimal((found[0] if mark else found[-1]).replace(",", ""))
