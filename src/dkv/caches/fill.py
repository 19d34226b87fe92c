"""dkv-fill, our own: every step costs the same rows, and spends those that it need not compute on the neediest.

Published caches are a saw: few rows for some steps, then all of them. What is read between grows stale, and a step of
few rows leaves unused what a device computes for nothing (the rest of a bucket, or the wait for the weights). Here each
step computes what it must, the rows decoded now and those just fixed, and fills up to `rows` with those that need it
most. There is no refresh after the first forward, and nothing is dropped between blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.caches.dkv_cache import expected, require
from dkv.core.canvas import GIVEN, NEVER, lowest
from dkv.core.policy import Plan, Step, rows_predicting
from dkv.core.values import shown
from dkv.errors import SpecError

__all__ = ["Fill"]

_CHOICES = ("age", "blend", "change", "near")
_REACH = 16
"""Positions on either side within which a change counts; what lies farther shows in the age alone."""
_FARTHER = 0.02
"""What a step's changes beyond the reach count for."""


def _distance(step: Step, centres: Tensor) -> Tensor:
    """[B, T] positions to the nearest of `centres` [B, T]; 0 in a sequence without any, whatever its padding."""
    width = centres.shape[1]
    position = step.canvas.position
    before = torch.where(centres, position, -width).cummax(dim=1).values
    after = torch.where(centres, position, 2 * width).flip(1).cummin(dim=1).values.flip(1)
    nearest = torch.minimum(position - before, after - position).float()
    return torch.where(centres.any(1, keepdim=True), nearest, 0.0)


def _changes(step: Step) -> Tensor:
    """[B, T] how much was fixed around each position since its slot was computed: the nearer, the more it counts."""
    fixed_at = torch.where(step.masked, GIVEN, step.canvas.committed_at)
    around = F.pad(fixed_at, (_REACH, _REACH), value=GIVEN).unfold(1, 2 * _REACH + 1, 1)
    since = around >= step.computed_at[:, :, None]  # and what was given, before all that is computed
    return (since * _nearness(around.device)).sum(2)


@cache
def _nearness(device: torch.device) -> Tensor:
    """[2 * _REACH + 1] what a change at each distance counts for."""
    return 1 / (1 + (torch.arange(2 * _REACH + 1, device=device) - _REACH).abs())


@dataclass(frozen=True)
class Fill:
    """dkv-fill, our own. Recomputes the same number of positions (`rows`) at every step: those being decoded, those
    just decoded, and then the ones that are most out of date.

    rows = live at the first forward; then next and fresh (see dkv-greedy), filled up to `rows` rows. choose: with
    which. age: the longest not computed; near: the nearest to next and fresh, the older first; blend: the greatest age
    over that distance; change: around which most was fixed since, each position counted over its distance.
    """

    name: ClassVar[str] = "dkv-fill"
    rows: int = 24
    choose: str = "change"

    def __post_init__(self) -> None:
        require(self.name, "rows", self.rows, 1)
        if self.choose not in _CHOICES:
            raise SpecError(
                f"cache={self.name!r}: choose={shown(self.choose)} is unknown; known: {', '.join(_CHOICES)}"
            )

    def plan(self, step: Step) -> Plan:
        """What must be computed, and the rows that need it most."""
        soon, _, told = expected(step)
        live, never = step.canvas.live, step.canvas.live & (step.computed_at == NEVER)
        must = soon | rows_predicting(soon, step.shift) | step.just_committed | never
        free = live & ~must
        key = torch.where(free, -self._need(step, must), torch.inf)
        rows = must | (lowest(key, self.rows - must.sum(1)) & free)
        return Plan(rows, query=told[:, None] | rows)

    def _need(self, step: Step, must: Tensor) -> Tensor:
        """[B, T] how much each row needs it."""
        age = (step.num_forwards[:, None] - step.computed_at).float()
        if self.choose == "age":
            return age
        if self.choose == "change":
            return _changes(step) + _FARTHER * age
        distance = _distance(step, must)
        return age / 1e6 - distance if self.choose == "near" else age / (1 + distance)
