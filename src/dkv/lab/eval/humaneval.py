"""HumanEval (Chen et al., arXiv 2107.03374) from a local file of its published form: `prompt`, `test`, `entry_point`.

The answers are programs, which are run only in `dkv.storage.sandbox`: a subprocess with limits on time,
memory and files, and no network.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dkv.errors import SettingError
from dkv.lab.eval.questions import Question, digest
from dkv.lab.eval.suite import Problem, Suite
from dkv.storage.jsonl import read_records
from dkv.storage.sandbox import can_cut_network, passes
from dkv.tiny import extraction

__all__ = ["GEN_LENGTH", "check", "humaneval", "program_of"]

GEN_LENGTH = 512

_FIELDS = ("prompt", "test", "entry_point")
_ASKED = "Complete this Python function. Answer with the whole function in one code block.\n\n```python\n{}\n```"


def humaneval(path: Path, count: int | None = None, execute: bool = False) -> Suite:
    """The first `count` problems of the file. execute: the user's consent to running what the model writes.

    Raises SettingError without consent, and where this system cannot run a program without a network.
    """
    if not execute:
        raise SettingError("humaneval: checking answers runs code that the model wrote; allow it with --execute-code")
    if not can_cut_network():
        raise SettingError(
            "humaneval: this system cannot run a program without a network (it needs Linux with user namespaces); "
            "run dkv eval in a container or on a machine that can"
        )
    return Suite("humaneval", tuple(map(_problem, read_records("humaneval", path, _FIELDS, count))))


def _problem(record: dict[str, str]) -> Problem:
    question = Question(_ASKED.format(record["prompt"].rstrip()), GEN_LENGTH)
    return Problem(question, partial(check, record), digest(record))


def check(record: dict[str, str], text: str) -> bool:
    """Whether the program that the text makes passes the tests. Raises OSError where it cannot be run safely."""
    tests = f"{record['test']}\ncheck({record['entry_point']})"
    return passes(program_of(record, text), tests, network=False)


def program_of(record: dict[str, str], text: str) -> str:
    """The whole program: the function of the text under what comes before it in the prompt, or the text as the
    function's body."""
    return extraction.program_of(record["prompt"], record["entry_point"], text)
