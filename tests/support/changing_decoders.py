"""A model that changes its mind from forward to forward, for decoders that look back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dkv.models import Transformer
from tests.support.runs import Scripted, positions, start_and_play

__all__ = ["Changing", "commits"]

VOCAB, MASK_ID = 12, 11


@dataclass
class Changing(Scripted):
    """tables: the logits [T, V] of each forward, the last one for good."""

    tables: list[Tensor] = field(default_factory=list)

    def logits(self, x: Tensor) -> Tensor:
        return self.tables[min(self.forwards, len(self.tables)) - 1][x[:, 0]].clone()


def _table(says: Sequence[tuple[int, float]]) -> Tensor:
    """Logits [1 + T, V] that give each token its probability, the rest evenly to the others."""
    table = torch.zeros(1 + len(says), VOCAB)
    for position, (token, share) in enumerate(says, 1):
        table[position, token] = math.log((VOCAB - 1) * share / (1 - share))
    return table


def commits(model: Transformer, reads: Sequence[Sequence[tuple[int, float]]], decoder: str) -> list[list[int]]:
    """What a decoder fixes at each step, where the n-th forward says `reads[n]`: a token and its probability for each
    position after a prompt of one token."""
    tables = [_table(says) for says in reads]
    like = Scripted.like(model, tables[0], mask_id=MASK_ID, eos_ids=(0,))
    changing = Changing(like.config, like.table, tables=tables)
    _, ticks = start_and_play(changing, [[1]], len(reads[0]), decoder=decoder)
    return [positions(tick.committed)[0] for tick in ticks]
