"""The rotary table grows with need, and a position's angles never depend on how far it reaches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dkv.layers.rotary import paired, unpaired
from dkv.layers.transformer import Rotary, rotary_table
from dkv.models import Transformer

CPU = torch.device("cpu")


def test_it_grows_in_doublings_up_to_the_context(model: Transformer) -> None:
    rotary = Rotary(replace(model.config, context=100), CPU)
    lengths = []
    for positions in (1, 3, 20, 5, 64, 65, 101):
        rotary.reach(positions)
        lengths.append(len(rotary.table))
    assert lengths == [1, 4, 32, 32, 64, 101, 101]


def test_more_than_the_context_is_no_error_here(model: Transformer) -> None:
    """What may be asked for is the front door's to say; a memory that is longer gets its table."""
    rotary = Rotary(replace(model.config, context=100), CPU)
    rotary.reach(500)
    assert len(rotary.table) == 500


def test_a_table_in_use_stays_where_it_is(model: Transformer) -> None:
    rotary = Rotary(model.config, CPU)
    rotary.reach(10)
    first, place, content = rotary.table, rotary.table.data_ptr(), rotary.table.clone()
    rotary.reach(90)
    assert rotary.table is not first
    assert (first.data_ptr(), first.equal(content)) == (place, True)


@pytest.mark.parametrize("head_dim", [4, 8, 64, 128])
def test_a_position_s_angles_are_the_same_in_every_table(head_dim: int) -> None:
    longest = rotary_table(head_dim, 4097, 10000.0, CPU)
    for positions in (*range(1, 130), 512, 1000, 4096):
        assert rotary_table(head_dim, positions, 10000.0, CPU).equal(longest[:positions])


def test_pairs_lie_side_by_side_and_go_back() -> None:
    channels = torch.arange(16)
    assert paired(channels, 8).tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    weight = torch.randn(16, 3)
    assert paired(weight, 8).equal(weight[paired(channels, 8)])
    assert unpaired(paired(weight, 8), 8).equal(weight)


def test_turning_pairs_is_the_published_rotation(model: Transformer) -> None:
    """Channel i of a head and channel i + D / 2 turn together by position * theta ** (-2 i / D)."""
    head_dim, theta = model.config.head_dim, model.config.rope_theta
    x, slots = torch.randn(3, 2, head_dim), torch.tensor([0, 7, 60])
    angle = slots[:, None, None] / theta ** (torch.arange(head_dim // 2) * 2 / head_dim)
    first, second = x.chunk(2, dim=-1)
    expected = torch.cat(
        (first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()), dim=-1
    )
    rotary = Rotary(model.config, CPU)
    rotary.reach(61)
    order = paired(torch.arange(head_dim), head_dim)
    torch.testing.assert_close(rotary.turn(slots)(x[..., order]), expected[..., order])
