"""A suite: questions with a check of each answer. The embedded model's tasks are suites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from dkv.lab.eval.questions import Question, digest
from dkv.tiny import TASKS, Example, load_eval

__all__ = ["EMBEDDED", "Problem", "Suite", "embedded"]

EMBEDDED: tuple[str, ...] = tuple(TASKS)
"""Names of the embedded tasks."""


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
    return Suite(task, tuple(_problem(example) for example in load_eval(task)[:count]))


def _problem(example: Example) -> Problem:
    return Problem(
        Question(example.asked, example.gen_length),
        partial(TASKS[example.task].check, example),
        digest({"answer": example.answer, "tests": example.tests}),
    )
