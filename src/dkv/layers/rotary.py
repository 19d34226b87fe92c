"""Rotary positions: the angles of every position, and the order of channels in which turning is one product.

Published weights pair each channel of a head with the one half a head away. Here the two lie side by side, so that a
pair is a complex number and a rotation one multiplication: the products of queries and keys do not change with the
order of channels, and nothing but these two is turned.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.layer_rules import RotaryPhase
from dkv.core.model import ModelConfig

__all__ = ["Rotary", "paired", "rotary_table", "unpaired"]


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


def rotary_table(
    head_dim: int, positions: int, theta: float, device: torch.device, rotary_dim: int | None = None
) -> Tensor:
    """cos and sin of every position and pair of channels, [positions, head_dim / 2, 2] float32; 1 and 0 of the pairs
    beyond rotary_dim, which are not rotated."""
    rotated = head_dim if rotary_dim is None else rotary_dim
    rate = 1.0 / theta ** (torch.arange(0, rotated, 2, dtype=torch.float32, device=device) / rotated)
    rate = F.pad(rate, (0, (head_dim - rotated) // 2))
    angle = torch.arange(positions, dtype=torch.float32, device=device)[:, None] * rate
    return torch.stack((angle.cos(), angle.sin()), dim=-1)


class Rotary:
    """The rotary table of a model, made as far as its longest memory so far needs: a context of 131,072 positions, or
    a damaged config that asks for billions, costs nothing until it is used.

    Lengths double up to the context. Shorter tables are kept, since a captured graph may still read one; all of them
    together are less than twice as long as the last.
    """

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        self._config, self._device = config, device
        self._tables: list[Tensor] = []

    @property
    def table(self) -> Tensor:
        """[positions, head_dim / 2, 2] float32, for as many positions as `reach` was asked for."""
        return self._tables[-1]

    def reach(self, positions: int) -> None:
        """Make sure of the table for `positions`."""
        if self._tables and len(self.table) >= positions:
            return
        c, doubled = self._config, 1 << (positions - 1).bit_length()
        length = max(positions, min(doubled, c.context + 1))
        self._tables.append(rotary_table(c.head_dim, length, c.rope_theta, self._device, c.rotary_dim))

    def turn(self, slots: Tensor) -> RotaryPhase:
        """The rotation of rows that sit in `slots` [N]."""
        return RotaryPhase(self.table.index_select(0, slots).unsqueeze(1))
