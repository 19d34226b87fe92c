"""Entropy-bounded unmasking (Ben-Hamu et al., arXiv 2505.24857): fix as many positions as a budget of entropy allows.

Tokens that are fixed together are drawn as if they were independent. What that can err by is at most the sum of their
entropies less the largest of them, so that is what the bound is on. With a bound of 0 one position is fixed a step, but
for those of no entropy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dkv.core.policy import ReadsBlock, Step, entropy, most
from dkv.core.sampling import Predictions
from dkv.core.values import require_number

__all__ = ["EntropyBound"]


@dataclass(frozen=True)
class EntropyBound(ReadsBlock):
    """EB-Sampler. Commits the positions of lowest entropy, as many as keep the sum of their entropies (the largest left
    out) at `gamma` nats or less, and at least as many as the schedule asks."""

    name: ClassVar[str] = "entropy-bound"
    adaptive: ClassVar[bool] = True
    gamma: float = 0.1

    def __post_init__(self) -> None:
        require_number("decoder='entropy-bound'", "gamma", self.gamma, "0 or more nats")

    def commit(self, step: Step, read: Predictions) -> Tensor:
        """The surest n, for the largest n within the bound."""
        doubt = entropy(read.logits)
        ordered = read.spread(doubt, torch.inf).sort(dim=1).values
        before = ordered.cumsum(dim=1).roll(1, dims=1)  # of those surer than each: the sum without the largest
        before[:, 0] = 0
        count = ((before <= self.gamma) & ordered.isfinite()).sum(dim=1)
        return most(read, -doubt, torch.maximum(count, step.num_transfer_tokens))
