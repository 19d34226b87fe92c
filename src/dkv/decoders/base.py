"""What decoders share. The protocol itself is `dkv.plan.Decoder`."""

from __future__ import annotations

import torch
from torch import Tensor

from dkv.canvas import NEVER, Canvas, lowest
from dkv.sampling import Read

__all__ = ["most", "no_rank"]


def no_rank(canvas: Canvas) -> Tensor:
    """The order of a decoder that cannot know it ahead."""
    return torch.full_like(canvas.tokens, NEVER)


def most(read: Read, score: Tensor, count: Tensor) -> Tensor:
    """[B, T] the `count` [B] positions with the highest score [M] of those read (all of them where there are fewer);
    ties go to the lowest position."""
    key = read.spread(-score, torch.inf)
    return lowest(key, count) & (key < torch.inf)
