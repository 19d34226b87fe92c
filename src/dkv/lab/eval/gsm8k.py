"""GSM8K (Cobbe et al., arXiv 2110.14168) from a local file of its published form: `question`, and `answer` ending in
`#### 42`. Zero-shot; the question goes through the chat template where there is one.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dkv.lab.eval.questions import Question, digest
from dkv.lab.eval.suite import Problem, Suite
from dkv.storage.jsonl import read_records
from dkv.tiny.numbers import final_number

__all__ = ["GEN_LENGTH", "check", "gsm8k"]

GEN_LENGTH = 256

_ASKED = "\n\nSolve the problem step by step. End with one more line: #### and the final number."


def gsm8k(path: Path, count: int | None = None) -> Suite:
    """The first `count` problems of the file. Raises SettingError."""
    return Suite("gsm8k", tuple(map(_problem, read_records("gsm8k", path, ("question", "answer"), count))))


def _problem(record: dict[str, str]) -> Problem:
    question = Question(record["question"] + _ASKED, GEN_LENGTH)
    return Problem(question, partial(check, record["answer"]), digest({"answer": record["answer"]}))


def check(answer: str, text: str) -> bool:
    """Whether the final numbers of the reference and of the text are equal."""
    wanted = final_number(answer)
    return wanted is not None and final_number(text) == wanted
