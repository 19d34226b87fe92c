"""dkv-fill, our own: no step is a full refresh; every step recomputes a few rows more than it must.

dKV-Cache-Decode recomputes everything at every `refresh`-th step and nothing settled between: what is read grows stale
until the next refresh, and the cost of a step is a saw. Here the same rows are spent evenly, where most needed.
Rows that cost nothing (the rest of a bucket, or what a device computes while it waits for the weights) are spent too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dkv.caches.dkv_cache import live_rows, require, unsettled
from dkv.canvas import lowest
from dkv.errors import SpecError
from dkv.plan import Plan, Step

__all__ = ["Fill"]

_CHOICES = ("age", "near", "blend")


def _age(step: Step) -> Tensor:
    """[B, T] forwards since each slot was computed."""
    return (step.clock[:, None] - step.computed_at).float()


def _distance(step: Step) -> Tensor:
    """[B, T] positions to the nearest token that was fixed by the last forward; far where there is none."""
    width = step.canvas.tokens.shape[1]
    position = step.canvas.position
    before = torch.where(step.fresh, position, -width).cummax(dim=1).values
    after = torch.where(step.fresh, position, 2 * width).flip(1).cummin(dim=1).values.flip(1)
    return torch.minimum(position - before, after - position).float()


@dataclass(frozen=True)
class Fill:
    """dkv-fill. rows = live at the first forward; then the masked rows and those fixed in the last forward, and `fill`
    rows more, rounded up to a multiple of `bucket` rows in all.

    choose: which, of those that need not be computed. age: the longest not computed; near: the nearest to what was just
    fixed, the older first; blend: the greatest age over the square root of that distance.
    """

    name: ClassVar[str] = "dkv-fill"
    fill: int = 8
    bucket: int = 1
    choose: str = "age"

    def __post_init__(self) -> None:
        for key, least in (("fill", 0), ("bucket", 1)):
            require(self.name, key, getattr(self, key), least)
        if self.choose not in _CHOICES:
            raise SpecError(f"cache={self.name!r}: choose={self.choose!r} is unknown; known: {', '.join(_CHOICES)}")

    def plan(self, step: Step) -> Plan:
        """What must be computed, and the rows that need it most."""
        live, must = step.canvas.live, live_rows(step, unsettled(step, 1), "un_right")
        count = must.sum(1) + self.fill
        count = (count + self.bucket - 1) // self.bucket * self.bucket
        free = live & ~must
        key = torch.where(free, -self._need(step), torch.inf)
        filled = lowest(key, count - must.sum(1)) & free
        return Plan(((step.clock == 0)[:, None] & live) | must | filled)

    def _need(self, step: Step) -> Tensor:
        """[B, T] how much each row needs it."""
        age = _age(step)
        if self.choose == "age":
            return age
        distance = _distance(step)
        return age / 1e6 - distance if self.choose == "near" else age / (1 + distance).sqrt()
