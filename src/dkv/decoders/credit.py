"""CreditDecoding (Wang et al., arXiv 2510.06133): a candidate that stays the same from read to read earns credit.

A model often settles on a token well before it is sure of it. Each read adds a power of the candidate's probability to
its credit, and what was earned before decays. As published, alpha * log(1 + credit) is added to the candidate's logit,
and the confidence that results is held against a threshold.

The paper keeps a credit for each token of the vocabulary; here only the candidate has one, which it loses when another
takes its place, so that two numbers a position are kept, and credit never changes which token is fixed. alpha, beta and
gamma are our own defaults; the program has 0.7, 0.8 and 0.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.policy import ReadsBlock, Step, most
from dkv.core.sampling import Predictions
from dkv.core.values import require_number
from dkv.errors import SpecError

__all__ = ["Credit"]


@dataclass(frozen=True)
class Credit(ReadsBlock):
    """CreditDecoding. As threshold, but a candidate that stays the same from step to step earns credit, which raises
    its confidence.

    tau: the threshold; alpha: how much credit counts; beta: what is left of it after a step; gamma: the power of the
    candidate's probability that is earned.
    """

    name: ClassVar[str] = "credit"
    adaptive: ClassVar[bool] = True
    state_size: ClassVar[int] = 2
    tau: float = 0.9
    alpha: float = 1.0
    beta: float = 0.7
    gamma: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise SpecError(f"decoder='credit': tau={self.tau!r} must lie in (0, 1]")
        require_number("decoder='credit'", "alpha", self.alpha, "0 (no credit) or a positive number")
        for name in ("beta", "gamma"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise SpecError(f"decoder='credit': {name}={value!r} must lie in [0, 1]")

    def update_state(self, step: Step, read: Predictions) -> Tensor:
        """The candidate, and its credit with this read's."""
        token, credit = _noted(step, read)
        kept = torch.where(token == read.token, self.beta * credit, 0.0)
        earned = (self.gamma * read.confidence).exp()
        return torch.stack((read.token.float(), kept + earned), dim=1)  # exact: no vocabulary has 2**24 tokens

    def commit(self, step: Step, read: Predictions) -> Tensor:
        """The sure ones, and the most confident."""
        confidence = _raised(read.confidence, self.alpha * _noted(step, read)[1].log1p())
        return read.spread(confidence > math.log(self.tau), False) | most(read, confidence, step.num_transfer_tokens)


def _noted(step: Step, read: Predictions) -> tuple[Tensor, Tensor]:
    """[M] the candidates noted at the positions read, and their credit."""
    if step.decoder_state is None:
        raise TypeError("credit was given no notes")
    noted = read.at(step.decoder_state)
    return noted[:, 0], noted[:, 1]


def _raised(confidence: Tensor, bonus: Tensor) -> Tensor:
    """The log-probability [M] of tokens once `bonus` [M] is added to their logits: it adds to the log-odds."""
    odds = confidence - (-torch.expm1(confidence)).log()
    return F.logsigmoid(odds + bonus)
