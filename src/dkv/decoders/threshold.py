"""Fast-dLLM's confidence-parallel decoding (Wu et al., arXiv 2505.22618): fix every position that the model is sure of.

A step fixes at least what LLaDA's schedule asks, so `steps` bounds the number of forwards: one token a step at
steps = gen_length, as published. A block ends as soon as it is complete. Sequences commit unequal numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dkv.core.policy import ReadsBlock, Step, most
from dkv.core.sampling import Predictions, log_confidence
from dkv.core.values import require_number, shown
from dkv.errors import SpecError

__all__ = ["Factor", "Threshold"]


@dataclass(frozen=True)
class Threshold(ReadsBlock):
    """Fast-dLLM's parallel decoding. Commits every position whose confidence is above `tau`, and at least as many as
    the schedule asks: several tokens a step.

    published: on Dream, hold tau against the distribution after temperature, top-p and top-k, as the program does.
    """

    name: ClassVar[str] = "threshold"
    adaptive: ClassVar[bool] = True
    tau: float = 0.9
    published: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise SpecError(f"decoder='threshold': tau={shown(self.tau)} must lie in (0, 1]")

    def commit(self, step: Step, read: Predictions) -> Tensor:
        """The sure ones, and the most confident."""
        confidence = read.confidence
        if self.published and step.shift:
            confidence = log_confidence(read.altered, read.token)
        sure = read.spread(confidence > math.log(self.tau), False)
        return sure | most(read, confidence, step.num_transfer_tokens)


@dataclass(frozen=True)
class Factor(ReadsBlock):
    """Fast-dLLM's factor rule. Commits the most confident positions; the more at once, the surer each must be.

    As many as the largest n with (n + 1) * (1 - c_n) < `factor`, where c_n is the n-th highest confidence. published:
    also the last open position once all others pass, as the program does, so that of two both are fixed.
    """

    name: ClassVar[str] = "factor"
    adaptive: ClassVar[bool] = True
    factor: float = 1.0
    published: bool = False

    def __post_init__(self) -> None:
        require_number("decoder='factor'", "factor", self.factor, "a positive number", zero=False)

    def commit(self, step: Step, read: Predictions) -> Tensor:
        """The most confident n, and at least the schedule's share."""
        doubt = read.spread(-torch.expm1(read.confidence), torch.inf)  # 1 - c, precise where c is near 1
        turn = torch.arange(1, doubt.shape[1] + 1, device=doubt.device)
        held = (turn + 1) * doubt.sort(dim=1).values < self.factor
        count = torch.maximum(torch.where(held, turn, 0).amax(1), step.num_transfer_tokens)
        if self.published:
            count = count + (count == step.open.sum(1) - 1)
        return most(read, read.confidence, count)
