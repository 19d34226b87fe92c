"""The confidence decoder: the most confident positions of the block, as many as the schedule says."""

from __future__ import annotations

import torch

from dkv.core.canvas import NEVER
from dkv.models import Transformer
from tests.support.runs import Scripted, positions, start_and_play


def sure(model: Transformer, levels: list[float]) -> Scripted:
    """A model that says 5 at every position, with the given certainty."""
    table = torch.zeros(len(levels), 12)
    table[:, 5] = torch.tensor(levels)
    return Scripted.like(model, table, mask_id=11, eos_ids=(0,))


def test_most_confident_first(model: Transformer) -> None:
    _, ticks = start_and_play(sure(model, [9, 1, 4, 2, 3]), [[1]], 4)
    assert [positions(tick.committed)[0] for tick in ticks] == [[2], [4], [3], [1]]


def test_several_a_step(model: Transformer) -> None:
    _, ticks = start_and_play(sure(model, [9, 1, 4, 2, 3, 8]), [[1]], 5, steps=2)
    assert [positions(tick.committed)[0] for tick in ticks] == [[2, 4, 5], [1, 3]]


def test_blocks_from_left_to_right(model: Transformer) -> None:
    _, ticks = start_and_play(sure(model, [9, 1, 2, 7, 8]), [[1]], 4, 2)
    assert [positions(tick.committed)[0] for tick in ticks] == [[2], [1], [4], [3]]


def test_only_the_block_is_read(model: Transformer) -> None:
    _, ticks = start_and_play(sure(model, [9, 1, 2, 7, 8]), [[1]], 4, 2)
    assert [positions(tick.step.query)[0] for tick in ticks] == [[1, 2], [1], [3, 4], [3]]
    assert [tick.predictions.flat.tolist() for tick in ticks if tick.predictions] == [[1, 2], [1], [3, 4], [3]]


def test_sequences_choose_apart(model: Transformer) -> None:
    _, ticks = start_and_play(sure(model, [9, 1, 4, 2, 3]), [[1], [1, 1]], 3)
    assert [positions(tick.committed) for tick in ticks] == [[[2], [2]], [[3], [4]], [[1], [3]]]


def test_the_order_is_not_known_ahead(model: Transformer) -> None:
    _, ticks = start_and_play(sure(model, [9, 1, 4]), [[1]], 2)
    assert ticks[0].step.order.eq(NEVER).all()
