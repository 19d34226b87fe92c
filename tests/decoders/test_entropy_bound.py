"""Entropy bound: as many positions as keep the sum of their entropies, the largest left out, within the bound."""

from __future__ import annotations

import math

import pytest
import torch

from dkv.decoders import make_decoder
from dkv.errors import SpecError
from dkv.models import Transformer
from tests.support.runs import Scripted, positions, start_and_play

WIDTH = 12


def entropy(share: float) -> float:
    """Of a distribution that gives one token this share and the other tokens the rest in equal parts."""
    rest = (1 - share) / (WIDTH - 1)
    return -share * math.log(share) - (WIDTH - 1) * rest * math.log(rest)


def commits(model: Transformer, shares: list[float], gamma: float, *schedule: int) -> list[list[int]]:
    """Positions fixed at each step by a model that says 5 at position p + 1 with probability shares[p]."""
    table = torch.zeros(len(shares) + 1, WIDTH)
    table[1:, 5] = torch.tensor([math.log((WIDTH - 1) * p / (1 - p)) for p in shares])
    scripted = Scripted.like(model, table, mask_id=11, eos_ids=(0,))
    decoder = f"entropy-bound:gamma={gamma}"
    _, ticks = start_and_play(scripted, [[1]], len(shares), *schedule, decoder=decoder)
    return [positions(tick.committed)[0] for tick in ticks]


def test_the_largest_is_left_out(model: Transformer) -> None:
    """Two are within any bound that holds the surer one, however unsure the other is."""
    shares = [0.99, 0.5, 0.9]
    first, second, third = (entropy(p) for p in (0.99, 0.9, 0.5))
    assert commits(model, shares, first * 0.99) == [[1], [3], [2]]
    assert commits(model, shares, first * 1.01) == [[1, 3], [2]]
    assert commits(model, shares, (first + second) * 1.01) == [[1, 2, 3]]
    assert commits(model, shares, (first + second) * 0.99) == [[1, 3], [2]]
    assert third > first + second  # so that the last two lines tell that the largest does not count


def test_a_bound_of_nothing_is_one_a_step(model: Transformer) -> None:
    assert commits(model, [0.6, 0.9, 0.8], 0) == [[2], [3], [1]]


def test_steps_bound_the_number_of_forwards(model: Transformer) -> None:
    assert commits(model, [0.4, 0.5, 0.45, 0.3], 0, 4, 2) == [[2, 3], [1, 4]]


@pytest.mark.parametrize("gamma", ["-0.1", "inf", "nan"])
def test_a_bound_out_of_range_is_refused(gamma: str) -> None:
    with pytest.raises(SpecError, match=r"gamma=.* must be 0 or more nats"):
        make_decoder(f"entropy-bound:gamma={gamma}")
