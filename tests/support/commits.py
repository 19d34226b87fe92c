"""What a decoder commits where the model is as sure as it is told to be."""

from __future__ import annotations

import math

import torch

from dkv.models import Transformer
from tests.support.runs import Scripted, positions, start_and_play


def sure(model: Transformer, shares: list[float]) -> Scripted:
    """A model that says 5 at position p with probability shares[p]."""
    table = torch.zeros(len(shares), 12)
    table[:, 5] = torch.tensor([math.log(11 * p / (1 - p)) for p in shares])
    return Scripted.like(model, table, mask_id=11, eos_ids=(0,))


def commits(model: Transformer, shares: list[float], decoder: str, *schedule: int) -> list[list[int]]:
    _, ticks = start_and_play(sure(model, [0.5, *shares]), [[1]], len(shares), *schedule, decoder=decoder)
    return [positions(tick.committed)[0] for tick in ticks]
