"""What decoders share. The protocol itself is `dkv.core.policy.Decoder`."""

from __future__ import annotations

import torch
from torch import Tensor

from dkv.core.canvas import NEVER, Canvas, lowest
from dkv.core.policy import Step
from dkv.core.sampling import Predictions

__all__ = ["ReadsBlock", "entropy", "most"]


class ReadsBlock:
    """The part of a decoder that chooses among every masked position of the block, in no order known ahead."""

    def commit_order(self, canvas: Canvas) -> Tensor:
        """Not known before the forward."""
        return torch.full_like(canvas.tokens, NEVER)

    def query(self, step: Step) -> Tensor:
        """Every masked position of the block."""
        return step.open


def entropy(logits: Tensor) -> Tensor:
    """[M] of the distributions of logits [M, V], in nats; a filtered token has p = 0 and adds nothing."""
    disorder: Tensor = torch.special.entr(logits.softmax(dim=1)).sum(dim=1)
    return disorder


def most(read: Predictions, score: Tensor, count: Tensor) -> Tensor:
    """[B, T] the `count` [B] positions with the highest score [M] of those read (all of them where there are fewer);
    ties go to the lowest position."""
    # A token that filters would leave out, where a better one is barred, has no probability: the least sure, but read.
    # So is one whose score is no number, lest it stay masked for ever.
    least = torch.finfo(score.dtype).max
    key = read.spread((-score).nan_to_num(nan=least).clamp(max=least), torch.inf)
    return lowest(key, count) & (key < torch.inf)
