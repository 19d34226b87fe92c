"""What every generator has in common: the protocol, and the split into training and evaluation.

Knows nothing of models, tokenizers or training.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from dkv.tiny import TASKS, Example, Task

EVALUATION_SHARE = 50  # one key in fifty belongs to the evaluation side


@dataclass(frozen=True)
class Generator(Task):
    """A task whose examples can be drawn.

    `make(rng, level)` draws any example at difficulty 0 (easiest), 1 or 2 (the distribution evaluated). The hash of an
    example's `key` alone decides on which side of the split it lies, so two wordings of one problem never lie on both
    sides.
    """

    make: Callable[[random.Random, int], Example]

    @classmethod
    def of(cls, name: str, make: Callable[[random.Random, int], Example]) -> Generator:
        """The generator of one of the evaluated tasks."""
        return cls(name, TASKS[name].check, make)

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


def as_json(example: Example) -> dict[str, Any]:
    """An example as a plain mapping, for a JSONL line; a history only where there is one."""
    return {name: value for name, value in asdict(example).items() if name != "history" or value}
