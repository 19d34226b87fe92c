"""How far a row's value vector moved since it was last looked at: what V-verify ranks rows by.

The vector goes over all heads. Where several processes hold some heads each, only its length needs all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["ROUNDING", "Lengths", "drift", "whole_lengths"]

ROUNDING = 1e-5
"""Relative change of a vector that different kernels for different shapes can cause in float32, with a margin."""

Lengths = Callable[[Tensor, Tensor], Sequence[Tensor]]
"""The Euclidean lengths [N] of new and of old vectors [N, D], and of their difference; in float32 at least. The vectors
may be this process's part of longer ones."""


def whole_lengths(new: Tensor, old: Tensor) -> Sequence[Tensor]:
    """Of vectors that are whole."""
    return new.norm(dim=1), old.norm(dim=1), (new - old).norm(dim=1)


def drift(new: Tensor, old: Tensor, similarity: str, lengths: Lengths = whole_lengths) -> Tensor:
    """How far value vectors [N, G, D] moved, [N] float32, over all heads: 1 - cosine, or the Euclidean distance.

    In float32, because in bfloat16 nearly all cosines tie; 1 - cosine from the distance d of vectors of lengths a, b,
    d^2 - (a - b)^2 = 2 a b (1 - cosine), because the difference itself rounds away. What has not moved beyond rounding
    counts as 0: then the lowest position wins, whatever the company of the sequence did to the last bits.
    """
    dtype = torch.promote_types(new.dtype, torch.float32)
    after, before, moved = lengths(new.flatten(1).to(dtype), old.flatten(1).to(dtype))
    if similarity != "cosine":
        return torch.where(moved > ROUNDING * before, moved, 0.0)
    both = after * before
    turned = torch.where(both > 0, (moved.square() - (after - before).square()) / (2 * both), 1.0)
    return torch.where(2 * turned > ROUNDING**2, turned, 0.0)
