"""LocalLeap (Kong et al., arXiv 2510.07081): near a position that the model is sure of, ask for less.

A very sure position is an anchor; what stands close to one tends to keep its candidate to the end. The defaults (0.9
for an anchor, 0.75 for what is at most 4 positions from one) are those of the paper's program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from dkv.decoders.base import ReadsBlock, most
from dkv.errors import SpecError
from dkv.plan import Step
from dkv.sampling import Read

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
        if not 0 < self.near <= self.tau <= 1:
            raise SpecError(
                f"decoder='local-leap': near={self.near!r} and tau={self.tau!r} must obey 0 < near <= tau <= 1"
            )
        if self.reach < 0:
            raise SpecError(f"decoder='local-leap': reach={self.reach!r} must be 0 or more positions")

    def commit(self, step: Step, read: Read) -> Tensor:
        """The anchors, what is sure enough near them, and the most confident."""
        anchors = read.spread(read.confidence > math.log(self.tau), False)
        around = F.max_pool1d(anchors.float(), 2 * self.reach + 1, stride=1, padding=self.reach) > 0
        likely = read.spread(read.confidence > math.log(self.near), False)
        return anchors | (likely & around) | most(read, read.confidence, step.quota)
