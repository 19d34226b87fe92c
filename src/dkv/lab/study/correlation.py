"""How two quantities of the same rows go together: Pearson's and Spearman's correlation, and overlap of the highest.

All work on the last dimension and leave the others as they are. float64, because drifts span many orders.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["overlap", "pearson", "ranks", "spearman"]


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation of x and y [..., N]: [...]; NaN where one of them is constant."""
    a, b = (v.double() - v.double().mean(-1, keepdim=True) for v in (x, y))
    scale = a.norm(dim=-1) * b.norm(dim=-1)
    constant = (x == x[..., :1]).all(-1) | (y == y[..., :1]).all(-1)
    return torch.where(constant, torch.nan, (a * b).sum(-1) / scale)


def ranks(x: Tensor) -> Tensor:
    """Ranks of x [..., N] from 0, ties at the mean of theirs, [..., N] float64."""
    below = (x[..., None, :] < x[..., :, None]).sum(-1)
    equal = (x[..., None, :] == x[..., :, None]).sum(-1)
    return below.double() + (equal.double() - 1) / 2


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's rank correlation of x and y [..., N]: [...]; NaN where one of them is constant."""
    return pearson(ranks(x), ranks(y))


def overlap(x: Tensor, y: Tensor, count: int) -> Tensor:
    """Of the `count` highest of y [..., N], the share that is among the `count` highest of x [..., N]; ties go to the
    lowest position, as in V-verify. By chance it is count / N."""
    return (_highest(x, count) & _highest(y, count)).double().sum(-1) / count


def _highest(x: Tensor, count: int) -> Tensor:
    order = x.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(x, dtype=torch.bool).scatter_(-1, order, True)
