"""How far a row's value vector moved since it was last looked at: what V-verify ranks rows by.

The vector goes over all heads. Where several processes hold some heads each, only its length needs all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Lengths", "drift", "whole_lengths"]

_ROUNDING = 1e-5
"""Relative change of a vector that different kernels for different shapes can cause in float32, with a margin."""

Lengths = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""The Euclidean lengths [N] of two sets of vectors [N, D], which may be this process's part of longer ones."""


def whole_lengths(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Of vectors that are whole."""
    return a.norm(dim=1), b.norm(dim=1)


def drift(new: Tensor, old: Tensor, similarity: str, lengths: Lengths = whole_lengths) -> Tensor:
    """How far value vectors [N, G, D] moved, [N] float32, over all heads: 1 - cosine, or the Euclidean distance.

    In float32, because in bfloat16 nearly all cosines tie; 1 - cosine as half the squared distance of the unit vectors,
    because the difference itself rounds away. What has not moved beyond rounding counts as 0: then the lowest position
    wins, whatever the company of the sequence did to the last bits.
    """
    a, b = new.float().flatten(1), old.float().flatten(1)
    if similarity == "cosine":
        a, b = (x / length.clamp_min(1e-8)[:, None] for x, length in zip((a, b), lengths(a, b), strict=True))
    moved, length = lengths(a - b, b)
    return torch.where(moved > _ROUNDING * length, moved.square() / 2 if similarity == "cosine" else moved, 0.0)
