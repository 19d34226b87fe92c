"""The order of channels in which a rotation by position is one product.

Published weights pair each channel of a head with the one half a head away. Here the two lie side by side, so that a
pair is a complex number and a rotation one multiplication: the products of queries and keys do not change with the
order of channels, and nothing but these two is rotated.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["paired", "unpaired"]


def paired(x: Tensor, head_dim: int, rotary_dim: int | None = None) -> Tensor:
    """The rows of a projection x [heads * head_dim, ...], channels half of rotary_dim apart moved next to each other.
    rotary_dim: how many of each head's channels are rotated, the first ones; None = all."""
    return _reordered(x, _order(head_dim, rotary_dim))


def unpaired(x: Tensor, head_dim: int, rotary_dim: int | None = None) -> Tensor:
    """The other way round: in the published order."""
    return _reordered(x, _order(head_dim, rotary_dim).argsort())


def _order(head_dim: int, rotary_dim: int | None) -> Tensor:
    """[head_dim] the published channel that lies at each place here."""
    order, rotated = torch.arange(head_dim), head_dim if rotary_dim is None else rotary_dim
    order[:rotated] = order[:rotated].view(2, -1).t().flatten()
    return order


def _reordered(x: Tensor, order: Tensor) -> Tensor:
    return x.view(-1, len(order), *x.shape[1:]).index_select(1, order.to(x.device)).view(x.shape)
