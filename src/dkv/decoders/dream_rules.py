"""Dream's unmasking rules on Dream's schedule (arXiv 2508.15487; its published sampler).

Time runs linearly from 1 to `eps` over the steps of a block; going from t to s, a share 1 - s / t of what is masked is
fixed, and all of it at the last step. Confidences come from the distribution after temperature, top-p and top-k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dkv.core.policy import ReadsBlock, Step, entropy, most
from dkv.core.sampling import Predictions, keyed_uniform, log_confidence, noise_key
from dkv.errors import SpecError

__all__ = ["Entropy", "MaskgitPlus", "Origin", "TopkMargin", "share"]

_RULE, _ORDER = -2, -(1 << 40)
"""Clocks that no forward has, so that these draws never meet those of the sampling noise, nor each other."""


def share(step: Step, eps: float) -> Tensor:
    """[B] float32 share 1 - s / t of the masked positions that the step from t to s fixes; 1 at the last step."""
    t, s = (_time(step.block_step + ahead, step.block_steps, eps) for ahead in (0, 1))
    return torch.where(step.block_step + 1 == step.block_steps, 1.0, 1.0 - s / t)


def _time(index: Tensor, steps: Tensor, eps: float) -> Tensor:
    """Entry `index` of linspace(1, eps, steps + 1) in float32 as torch.linspace rounds it: a float32 step, counted from
    the nearer end, multiplied and added in one rounding. The counts of the schedule hang on the last bit."""
    end = torch.full((), eps, dtype=torch.float32, device=index.device)  # made there, not sent there
    width, near = ((end - 1) / steps).double(), index < (steps + 1) // 2
    return torch.where(near, 1 + width * index, end.double() - width * (steps - index)).float()


@dataclass(frozen=True)
class _Scheduled(ReadsBlock):
    """Fix the positions with the highest score, as many as Dream's schedule says. alg_temp: draw them without
    replacement by softmax(confidence / alg_temp) instead, 0 = the highest; eps: where time ends."""

    name: ClassVar[str]
    adaptive: ClassVar[bool] = False
    alg_temp: float = 0.0
    eps: float = 1e-3

    def __post_init__(self) -> None:
        _check_eps(self.name, self.eps)
        if not 0 <= self.alg_temp <= 1e6:
            raise SpecError(
                f"decoder={self.name!r}: alg_temp={self.alg_temp!r} must lie in [0, 1e6]; 0: the highest score first"
            )

    def score(self, read: Predictions) -> Tensor:
        """[M] what ranks the positions read."""
        raise NotImplementedError

    def confidence(self, read: Predictions) -> Tensor:
        """[M] the program's confidence, up to a constant (which a softmax does not see): what a draw goes by."""
        return self.score(read)

    def commit(self, step: Step, read: Predictions) -> Tensor:
        """The highest scores, or a draw by the confidences."""
        count = (step.open.sum(1).float() * share(step, self.eps)).long()
        if not self.alg_temp:
            return most(read, self.score(read), count)
        return most(read, self.confidence(read) / self.alg_temp + _gumbel(step, read), count)


@dataclass(frozen=True)
class Entropy(_Scheduled):
    """Dream's default. Commits the positions where the model's distribution has the lowest entropy, on Dream's
    schedule."""

    name: ClassVar[str] = "entropy"

    def score(self, read: Predictions) -> Tensor:
        """Sum of p log p."""
        return -entropy(read.altered)


@dataclass(frozen=True)
class MaskgitPlus(_Scheduled):
    """Dream's rule maskgit_plus. Commits the positions whose token has the highest probability, on Dream's schedule."""

    name: ClassVar[str] = "maskgit-plus"

    def score(self, read: Predictions) -> Tensor:
        """Its logarithm, which ranks alike and does not round to 1."""
        return log_confidence(read.altered, read.token)

    def confidence(self, read: Predictions) -> Tensor:
        """The probability less 1, which does not round to 0 where a token is nearly certain."""
        return self.score(read).expm1()


@dataclass(frozen=True)
class TopkMargin(_Scheduled):
    """Dream's rule topk_margin. Commits the positions whose best token leads the second best by the most, on Dream's
    schedule."""

    name: ClassVar[str] = "topk-margin"

    def score(self, read: Predictions) -> Tensor:
        """Minus (the others' probability + the second's), which is the margin less 1 and does not round to 0."""
        top = read.altered.topk(2, dim=1).values
        others = (read.altered - top[:, :1]).exp().scatter(1, read.altered.argmax(1, keepdim=True), 0.0).sum(1)
        return -(others + (top[:, 1] - top[:, 0]).exp()) / (1 + others)


@dataclass(frozen=True)
class Origin(ReadsBlock):
    """Dream's rule origin. Commits positions at random, as many as Dream's schedule asks on average.

    Each masked position is fixed with the schedule's share as its probability: the draw comes before the forward, so
    only what is fixed is read.
    """

    name: ClassVar[str] = "origin"
    adaptive: ClassVar[bool] = False
    eps: float = 1e-3

    def __post_init__(self) -> None:
        _check_eps("origin", self.eps)

    def query(self, step: Step) -> Tensor:
        """The positions whose draw falls under the share."""
        draw = _draw(step, step.canvas.position, _RULE)
        return step.open & (draw <= share(step, self.eps)[:, None])

    def commit(self, step: Step, read: Predictions) -> Tensor:
        """All that was read."""
        return step.query


def _draw(step: Step, position: Tensor, stream: int) -> Tensor:
    """A uniform number in (0, 1] for each sequence and position, [B, T], keyed by seed and clock."""
    key = noise_key(step.canvas.seed[:, None], (stream - step.num_forwards)[:, None], position)
    return keyed_uniform(key.flatten(), 1).view(key.shape)


def _gumbel(step: Step, read: Predictions) -> Tensor:
    """Gumbel noise [M] for the positions read: adding it to scores draws without replacement by their softmax."""
    uniform = _draw(step, step.canvas.position, _ORDER).view(-1)[read.flat]
    return -(-torch.log1p(-uniform)).log()


def _check_eps(name: str, eps: float) -> None:
    if not 0 < eps < 1:
        raise SpecError(f"decoder={name!r}: eps={eps!r} must lie in (0, 1)")
