"""What to tune on: the embedded tasks, or a user's prompts, of which only the change of answers can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dkv.errors import SettingError
from dkv.lab.doctor.doctor_prompts import read_prompts
from dkv.lab.eval.questions import Question, digest
from dkv.lab.eval.suite import EMBEDDED, Problem, Suite, embedded
from dkv.lab.tune.budget import Budget

__all__ = ["DEFAULT", "suites_of"]

DEFAULT = ("words", "lists", "code")
"""The tasks that tell caches apart best, all of 64 tokens."""


def suites_of(tasks: str | None, prompts: Path | None, gen_length: int, count: int, budget: Budget) -> list[Suite]:
    """The tasks of a comma-separated list, or the first `count` prompts of a file at `gen_length` tokens each. Raises
    SettingError."""
    if prompts is None:
        names = DEFAULT if tasks is None else tuple(filter(None, (name.strip() for name in tasks.split(","))))
        for name in names:
            if name not in EMBEDDED:
                raise SettingError(f"tasks={tasks!r}: {name!r} is unknown; known: {', '.join(EMBEDDED)}")
        if not names:
            raise SettingError(f"tasks={tasks!r} names none; known: {', '.join(EMBEDDED)}")
        return [embedded(name) for name in dict.fromkeys(names)]
    if tasks is not None:
        raise SettingError("tasks and prompts exclude each other; give one of them")
    if budget.kind == "lost":
        raise SettingError("lost: prompts have no right answers to lose; give changed, the share that may change")
    asked = [_asked(str(prompts), prompt) for prompt in read_prompts(prompts, count)]
    return [Suite(prompts.name, tuple(Problem(Question(text, gen_length), bool, digest({})) for text in asked))]


def _asked(path: str, prompt: Any) -> str | tuple[tuple[str, str], ...]:
    if isinstance(prompt, str):
        return prompt
    if all(isinstance(turn, dict) and {"role", "content"} <= set(turn) for turn in prompt):
        return tuple((str(turn["role"]), str(turn["content"])) for turn in prompt)
    raise SettingError(f"prompts={path!r}: dkv tune takes texts and conversations, not token ids")
