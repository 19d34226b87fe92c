"""Where a step reads: the wanted positions, and the carried rows that predict them.

It is found before the forward, which leaves nothing of the program in a processor's caches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dkv.core.sampling import Sampling

__all__ = ["Reading"]


@dataclass(frozen=True, eq=False)
class Reading:
    """M positions that are read, ascending: flat [M] = sequence * T + position of each; sequence, position [M]; shape
    (B, T); slot [M]: of the row that predicts it; row [M]: which of the carried ones that is; number [B * T]: of each
    carried row, None = all are; sampling: one entry for each."""

    flat: Tensor
    sequence: Tensor
    position: Tensor
    shape: tuple[int, int]
    slot: Tensor
    row: Tensor
    number: Tensor | None
    sampling: Sampling

    @classmethod
    def of(cls, wanted: Tensor, count: int, rows: Tensor, whole: bool, shift: int, sampling: Sampling) -> Reading:
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
