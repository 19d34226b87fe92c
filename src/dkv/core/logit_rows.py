"""Where a step reads: the wanted positions, and the carried rows that predict them.

It is found before the forward, which leaves nothing of the program in a processor's caches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dkv.core.sampling import Sampling

__all__ = ["LogitRows"]


@dataclass(frozen=True, eq=False)
class LogitRows:
    """M queried positions in ascending order, and the carried rows that predict them."""

    flat: Tensor
    """[M] sequence * T + position."""
    sequence: Tensor
    """[M] sequence of each."""
    position: Tensor
    """[M] position of each."""
    shape: tuple[int, int]
    """(B, T)."""
    slot: Tensor
    """[M] slot of the row that predicts it."""
    row: Tensor
    """[M] which of the carried rows that is."""
    number: Tensor | None
    """[B * T] number of each carried row; None where all rows are carried."""
    sampling: Sampling
    """One entry for each of the M positions."""

    @classmethod
    def of(cls, wanted: Tensor, count: int, rows: Tensor, whole: bool, shift: int, sampling: Sampling) -> LogitRows:
        """The `count` wanted [B, T] ones, by carried rows [B, T] (whole: all of them), of which row p predicts token
        p + shift; sampling: of each sequence."""
        batch, width = rows.shape
        flat = torch.nonzero_static(wanted.view(-1), size=count).view(-1)
        sequence, position = flat // width, flat % width
        slot = (position - shift).clamp(min=0) if shift else position
        number = None if whole else rows.view(-1).cumsum(0) - 1
        place = sequence * width + slot if shift else flat
        row = place if number is None else number.index_select(0, place)
        return cls(flat, sequence, position, (batch, width), slot, row, number, sampling.at(sequence))

    def row_in(self, sequence: Tensor) -> Tensor:
        """[M] the carried row of the same slot in another sequence [M]."""
        place = sequence * self.shape[1] + self.slot
        return place if self.number is None else self.number.index_select(0, place)
