"""How far a row's value vector moved since it was last looked at: what V-verify ranks rows by.

The vector goes over all heads. Where several processes hold some heads each, only its length needs all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Lengths", "drift", "whole_lengths"]

_ROUNDING = 1e-5
"""Relative change of a vector that different kernels for different shapes can cause in float32, with a margin."""

Lengths = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""The Euclidean lengths [N] float32 of sets of vectors [N, D], which may be this process's part of longer ones."""


def whole_lengths(vectors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Of vectors that are whole."""
    return [v.norm(dim=1, dtype=torch.promote_types(v.dtype, torch.float32)) for v in vectors]


def drift(new: Tensor, old: Tensor, similarity: str, lengths: Lengths = whole_lengths) -> Tensor:
    """How far value vectors [N, G, D] moved, [N] float32, over all heads: 1 - cosine, or the Euclidean distance.

    In float32, because in bfloat16 nearly all cosines tie; 1 - cosine from the distance d of vectors of lengths a, b,
    d^2 - (a - b)^2 = 2 a b (1 - cosine), because the difference itself rounds away. What has not moved beyond rounding
    counts as 0: then the lowest position wins, whatever the company of the sequence did to the last bits.
    """
    a, b = new.flatten(1), old.flatten(1)
    after, before, moved = lengths((a, b, a.float() - b))
    if similarity != "cosine":
        return torch.where(moved > _ROUNDING * before, moved, 0.0)
    both = after * before
    turned = torch.where(both > 0, (moved.square() - (after - before).square()) / (2 * both), 1.0)
    return torch.where(2 * turned > _ROUNDING**2, turned, 0.0)
