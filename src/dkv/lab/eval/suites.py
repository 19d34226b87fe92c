"""Suites: questions with a check of each answer. The embedded tasks; GSM8K and HumanEval from a local file each.

GSM8K: Cobbe et al., arXiv 2110.14168, `question` and an `answer` that ends in `#### 42`. HumanEval: Chen et al., arXiv
2107.03374, `prompt`, `test` and `entry_point`; its answers are programs, run only in the sandbox. Both are asked
zero-shot, through the chat template where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dkv.errors import SettingError
from dkv.lab.eval.questions import Question, digest
from dkv.storage.jsonl import read_records
from dkv.storage.sandbox import can_cut_network, passes
from dkv.tiny import TASKS, load_eval
from dkv.tiny.extraction import program_of
from dkv.tiny.numbers import final_number

__all__ = [
    "EMBEDDED", "Problem", "Suite", "embedded", "gsm8k", "humaneval", "humaneval_program", "passes_humaneval",
    "same_final_number",
]  # fmt: skip

EMBEDDED: tuple[str, ...] = tuple(TASKS)
"""Names of the embedded tasks."""

_SUM = "{}\n\nSolve the problem step by step. End with one more line: #### and the final number."
_FUNCTION = "Complete this Python function. Answer with the whole function in one code block.\n\n```python\n{}\n```"


@dataclass(frozen=True)
class Problem:
    """A question, whether a text answers it, and a digest of what the check compares with."""

    question: Question
    check: Callable[[str], bool]
    reference: str


@dataclass(frozen=True)
class Suite:
    """A named list of problems."""

    name: str
    problems: tuple[Problem, ...]

    def with_chat(self, chat: bool | None) -> Suite:
        """The same, its questions through the chat template or not (None: if there is one)."""
        problems = (replace(p, question=replace(p.question, chat=chat)) for p in self.problems)
        return replace(self, problems=tuple(problems))

    @property
    def questions(self) -> list[Question]:
        """The problems' questions, in order."""
        return [problem.question for problem in self.problems]


def embedded(task: str, count: int | None = None) -> Suite:
    """The first `count` (None: all 400) examples of an embedded task's frozen evaluation set. Raises KeyError."""
    check = TASKS[task].check
    problems = (
        Problem(Question(e.asked, e.gen_length), partial(check, e), digest({"answer": e.answer, "tests": e.tests}))
        for e in load_eval(task)[:count]
    )
    return Suite(task, tuple(problems))


def gsm8k(path: Path, count: int | None = None) -> Suite:
    """The first `count` problems of the file. Raises SettingError."""
    problems = (
        Problem(
            Question(_SUM.format(record["question"]), 256),
            partial(same_final_number, record["answer"]),
            digest({"answer": record["answer"]}),
        )
        for record in read_records("gsm8k", path, ("question", "answer"), count)
    )
    return Suite("gsm8k", tuple(problems))


def same_final_number(answer: str, text: str) -> bool:
    """Whether the final numbers of the reference and of the text are equal."""
    wanted = final_number(answer)
    return wanted is not None and final_number(text) == wanted


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
    problems = (
        Problem(
            Question(_FUNCTION.format(record["prompt"].rstrip()), 512),
            partial(passes_humaneval, record),
            digest(record),
        )
        for record in read_records("humaneval", path, ("prompt", "test", "entry_point"), count)
    )
    return Suite("humaneval", tuple(problems))


def passes_humaneval(record: dict[str, str], text: str) -> bool:
    """Whether the program that the text makes passes the tests. Raises OSError where it cannot be run safely."""
    tests = f"{record['test']}\ncheck({record['entry_point']})"
    return passes(humaneval_program(record, text), tests, network=False)


def humaneval_program(record: dict[str, str], text: str) -> str:
    """The whole program: the function of the text under what comes before it in the prompt, or the text as the
    function's body."""
    return program_of(record["prompt"], record["entry_point"], text)
