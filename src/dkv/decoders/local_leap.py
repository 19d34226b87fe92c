"""LocalLeap (Kong et al., arXiv 2510.07081): near a position that the model is sure of, ask for less.

A very sure position is an anchor; what stands close to one tends to keep its candidate to the end. The defaults (0.9
for an anchor, 0.75 for what is at most 4 positions from one) are those of the paper's program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dkv.core.policy import ReadsBlock, Step, most
from dkv.core.sampling import Predictions
from dkv.core.values import is_number, shown
from dkv.errors import SpecError

__all__ = ["LocalLeap"]


@dataclass(frozen=True)
class LocalLeap(ReadsBlock):
    """LocalLeap. Commits every position whose confidence is above `tau`, those above `near` that are at most `reach`
    positions from one of them, and at least as many as the schedule asks."""

    name: ClassVar[str] = "local-leap"
    adaptive: ClassVar[bool] = True
    tau: float = 0.9
    near: float = 0.75
    reach: int = 4

    def __post_init__(self) -> None:
        if not (is_number(self.near) and is_number(self.tau) and 0 < self.near <= self.tau <= 1):
            raise SpecError(
                f"decoder='local-leap': near={shown(self.near)} and tau={shown(self.tau)} must obey "
                "0 < near <= tau <= 1"
            )
        if type(self.reach) is not int or not 0 <= self.reach < 1 << 31:
            reach = shown(self.reach)
            raise SpecError(f"decoder='local-leap': reach={reach} must be 0 or more positions (and below 2**31)")

    def commit(self, step: Step, read: Predictions) -> Tensor:
        """The anchors, what is sure enough near them, and the most confident."""
        anchors = read.spread(read.confidence > math.log(self.tau), False)
        around = _near(anchors, self.reach)
        likely = read.spread(read.confidence > math.log(self.near), False)
        return anchors | (likely & around) | most(read, read.confidence, step.num_transfer_tokens)


def _near(which: Tensor, reach: int) -> Tensor:
    """[B, T] the positions at most `reach` from one of which [B, T]; what it costs does not depend on the reach."""
    width = which.shape[1]
    position = torch.arange(width, device=which.device)
    before = torch.where(which, position, -width).cummax(dim=1).values
    after = torch.where(which, position, 2 * width).flip(1).cummin(dim=1).values.flip(1)
    return torch.minimum(position - before, after - position) <= min(reach, width - 1)
