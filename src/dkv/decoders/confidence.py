"""LLaDA's low-confidence remasking: read every masked position of the block, fix the most confident ones.

How many is fixed by the schedule (`Step.quota`). Source: LLaDA's published sampler (arXiv 2502.09992, "Inference").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dkv.core.policy import ReadsBlock, Step, most
from dkv.core.sampling import Predictions

__all__ = ["Confidence"]


@dataclass(frozen=True)
class Confidence(ReadsBlock):
    """LLaDA's default. Commits the positions that the model is most confident about, an even number at each step; ties
    go to the lowest position."""

    name: ClassVar[str] = "confidence"
    adaptive: ClassVar[bool] = False

    def commit(self, step: Step, read: Predictions) -> Tensor:
        """The most confident of those read."""
        return most(read, read.confidence, step.num_transfer_tokens)
