"""KLASS (Kim et al., arXiv 2511.05664): fix what the model is fairly sure of and no longer changes its mind about.

A position whose distribution barely moved over the last reads may be fixed at a lower confidence than one read once.
The defaults are those of the paper's program on GSM8K with LLaDA.

How far a distribution moved is its Kullback-Leibler divergence from the one of the read before. To keep whole
distributions would take a vocabulary of numbers a position (LLaDA: 506 kB). Kept are the likeliest tokens with their
probabilities; all others count as one, which can only make the divergence smaller, and hardly does where few tokens
hold nearly all the probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dkv.decoders.base import ReadsBlock, most
from dkv.errors import SpecError
from dkv.plan import Step
from dkv.sampling import Read

__all__ = ["Klass"]

_TOP = 8
"""Tokens that are kept apart."""


@dataclass(frozen=True)
class Klass(ReadsBlock):
    """Fix every position whose confidence is above `tau` and whose distribution moved by less than `kl` nats at each of
    the last `history` reads; where there is none, the schedule's share, as `confidence` does."""

    name: ClassVar[str] = "klass"
    adaptive: ClassVar[bool] = True
    notes: ClassVar[int] = 2 * _TOP + 1
    tau: float = 0.6
    kl: float = 0.015
    history: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise SpecError(f"decoder='klass': tau={self.tau!r} must lie in (0, 1]")
        if not 0 < self.kl < math.inf:
            raise SpecError(f"decoder='klass': kl={self.kl!r} must be a positive number of nats")
        if self.history < 1:
            raise SpecError(f"decoder='klass': history={self.history!r} must be 1 read or more")

    def note(self, step: Step, read: Read) -> Tensor:
        """Ids and log-probabilities of the likeliest tokens, and for how many reads nothing has moved."""
        before = _before(step, read)
        now = read.logits.log_softmax(dim=1)
        moved = _divergence(now, before)
        calm = torch.where(moved < self.kl, before[:, 2 * _TOP] + 1, 0.0)
        top = now.topk(min(_TOP, now.shape[1]), dim=1)
        kept = torch.zeros_like(before[:, : 2 * _TOP])
        kept[:, : top.indices.shape[1]] = top.indices.float()  # exact: no vocabulary has 2**24 tokens
        kept[:, _TOP : _TOP + top.values.shape[1]] = top.values.exp()
        return torch.cat((kept, calm[:, None]), dim=1)

    def commit(self, step: Step, read: Read) -> Tensor:
        """The sure and calm ones, or else the most confident."""
        calm = _before(step, read)[:, 2 * _TOP] >= self.history
        ready = read.spread(calm & (read.confidence > math.log(self.tau)), False)
        return torch.where(ready.any(1, keepdim=True), ready, most(read, read.confidence, step.quota))


def _before(step: Step, read: Read) -> Tensor:
    """[M, notes] what is noted of the positions read."""
    if step.notes is None:
        raise TypeError("klass was given no notes")
    return read.at(step.notes)[:, : Klass.notes]


def _divergence(now: Tensor, before: Tensor) -> Tensor:
    """[M] KL of the distributions of log-probabilities now [M, V] from those noted before, over the tokens noted and
    the rest; infinite where nothing was noted."""
    ids, old = before[:, :_TOP].long(), before[:, _TOP : 2 * _TOP]
    new = torch.where(old > 0, now.gather(1, ids).exp(), 0.0)
    new, old = (torch.cat((p, (1 - p.sum(1, keepdim=True)).clamp(min=0)), dim=1) for p in (new, old))
    moved = (torch.xlogy(new, new) - torch.xlogy(new, old.clamp(min=1e-12))).sum(dim=1)
    return torch.where(before[:, _TOP] > 0, moved, torch.inf)
