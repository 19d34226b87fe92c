"""LLaDA's random remasking with its order drawn ahead, as dKV-Cache-Greedy needs it.

Because the order is known before the forward, only the rows about to be decoded are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from dkv.core.canvas import NEVER, Canvas, lowest
from dkv.core.policy import Step
from dkv.core.sampling import Predictions, keyed_uniform, noise_key
from dkv.core.values import ArrayLike, as_index, plain, shown
from dkv.errors import SettingError, SpecError

__all__ = ["Random", "RandomOrder"]


class _Ordered:
    """Fix the next `quota` positions of a known order."""

    adaptive: ClassVar[bool] = False

    def query(self, step: Step) -> Tensor:
        """The next positions in the order."""
        key = torch.where(step.open, step.order, NEVER)
        return lowest(key, step.num_transfer_tokens) & (key < NEVER)

    def commit(self, step: Step, read: Predictions) -> Tensor:
        """All that was read."""
        return step.query


@dataclass(frozen=True)
class Random(_Ordered):
    """LLaDA's random remasking. Commits positions in a random order, an even number at each step.

    The order is drawn from `seed` (None: each request's own seed) and the position alone, so neither the batch nor the
    cache changes it.
    """

    name: ClassVar[str] = "random"
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.seed is not None and not 0 <= self.seed < 1 << 62:
            raise SpecError(f"decoder='random': seed={shown(self.seed)} must lie in [0, 2**62)")

    def commit_order(self, canvas: Canvas) -> Tensor:
        """Ranks of one uniform draw per position, over the whole canvas."""
        seed = canvas.seed if self.seed is None else torch.full_like(canvas.seed, self.seed)
        # Clock -1 belongs to no forward: these draws never meet those of the sampling noise.
        key = noise_key(seed[:, None], torch.full_like(seed, -1)[:, None], canvas.position)
        draw = keyed_uniform(key.flatten(), 1).view_as(canvas.tokens)
        return draw.argsort(dim=1, stable=True).argsort(dim=1)


@dataclass(frozen=True)
class RandomOrder(_Ordered):
    """A given order: `order[block][row]` lists absolute positions as they are to be decoded, for the sequences of
    one call in their order.

    Blocks still go left to right, each taking its own positions in the order of the list. Raises SettingError when
    generation starts, if a row repeats or misses a position.
    """

    order: Sequence[Sequence[Sequence[int]]] | ArrayLike = field(repr=False)

    def __post_init__(self) -> None:
        blocks = [[plain(row) for row in plain(block)] for block in plain(self.order)]
        order = tuple(tuple(tuple(map(_position, row)) for row in block) for block in blocks)
        object.__setattr__(self, "order", order)

    def commit_order(self, canvas: Canvas) -> Tensor:
        """Place of each position in its row's list, blocks one after another."""
        rank = torch.full_like(canvas.tokens, NEVER)
        masked = canvas.masked.tolist()
        for row, request in enumerate(canvas.request.tolist()):
            listed = [p for block in plain(self.order) for of_row in block[request : request + 1] for p in of_row]
            expected = [p for p, is_masked in enumerate(masked[row]) if is_masked]
            if sorted(listed) != expected:
                raise SettingError(f"order: row {request} must list each masked position of its response exactly once")
            rank[row, listed] = torch.arange(len(listed), device=rank.device)
        return rank


def _position(value: object) -> int:
    position = as_index(value)
    if position is None:
        raise SettingError(f"order: {value!r} is no position; give whole numbers [block][row][position]")
    return position
