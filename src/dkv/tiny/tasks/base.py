"""What every task has in common: an example, the protocol of a task, and the split into training and evaluation.

Knows nothing of models, tokenizers or training.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

EVALUATION_SHARE = 50  # one key in fifty belongs to the evaluation side


@dataclass(frozen=True)
class Example:
    """One prompt with a checkable answer.

    `key` is the essential content (operands, items, constants), stripped of names and wording where these do not
    matter: its hash alone decides on which side of the split an example lies, so two wordings of one problem never
    lie on both sides. `tests` holds Python assertions for tasks that are checked by running the answer, `history` the
    (role, text) turns before the prompt.
    """

    task: str
    prompt: str
    answer: str
    gen_length: int
    key: str
    tests: str = ""
    history: tuple[tuple[str, str], ...] = ()

    @property
    def messages(self) -> tuple[tuple[str, str], ...]:
        """The whole conversation that is to be answered, as (role, text)."""
        return (*self.history, ("user", self.prompt))

    @property
    def asked(self) -> str | tuple[tuple[str, str], ...]:
        """What a model is to be asked: the prompt, and where turns went before it, the whole conversation."""
        return self.messages if self.history else self.prompt

    def as_json(self) -> dict[str, Any]:
        """The example as a plain mapping, for a JSONL line; a history only where there is one."""
        return {name: value for name, value in asdict(self).items() if name != "history" or value}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Example:
        """Back from a JSONL line. Raises TypeError for other fields."""
        return cls(**(fields | {"history": tuple((role, text) for role, text in fields.get("history", ()))}))


@dataclass(frozen=True)
class Task:
    """A named generator with its checker.

    `make(rng, level)` draws any example at difficulty 0 (easiest), 1 or 2 (the distribution evaluated);
    `check(example, text)` says whether `text` answers it.
    """

    name: str
    make: Callable[[random.Random, int], Example]
    check: Callable[[Example, str], bool]

    def training(self, rng: random.Random, level: int = 2) -> Example:
        """An example of the training side."""
        return self._draw(rng, level, held_out=False)

    def evaluation(self, rng: random.Random, level: int = 2) -> Example:
        """An example of the evaluation side, which `training` can never return."""
        return self._draw(rng, level, held_out=True)

    def _draw(self, rng: random.Random, level: int, held_out: bool) -> Example:
        while True:
            example = self.make(rng, level)
            if is_held_out(example) == held_out:
                return example


def is_held_out(example: Example) -> bool:
    """Whether an example lies on the evaluation side: a stable hash of its task and key."""
    digest = hashlib.blake2b(f"{example.task}\0{example.key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % EVALUATION_SHARE == 0


def last_line(text: str) -> str:
    """The last line that is not blank, stripped; empty if there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
