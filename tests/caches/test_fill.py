"""dkv-fill: the same number of rows at every step, what must be computed among them, the neediest besides."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dkv.caches import make_cache
from dkv.core.loop import StepOutput
from dkv.decoders import RandomOrder
from dkv.errors import SpecError
from dkv.models import Transformer
from tests.support.runs import positions, start_and_play

PROMPT, GEN = [1, 2, 3], 6
ORDER = RandomOrder([[[8, 3, 5, 4, 7, 6]]])
EVERY = list(range(9))


def rows(model: Transformer, cache: str) -> list[list[int]]:
    _, ticks = start_and_play(model, [PROMPT], GEN, cache=cache, decoder=ORDER)
    return [positions(tick.rows)[0] for tick in ticks]


def test_without_room_it_is_what_must_be_computed(model: Transformer) -> None:
    """What is decoded now, and what was just decoded."""
    assert rows(model, "dkv-fill:rows=1") == [EVERY, [3, 8], [3, 5], [4, 5], [4, 7], [6, 7]]


def test_age_goes_round(model: Transformer) -> None:
    """Ties go to the lowest position; two of four rows are free at each step."""
    assert rows(model, "dkv-fill:rows=4,choose=age") == [
        EVERY, [0, 1, 3, 8], [2, 3, 4, 5], [4, 5, 6, 7], [0, 1, 4, 7], [2, 6, 7, 8],
    ]  # fmt: skip


def test_near_is_around_what_must_be_computed(model: Transformer) -> None:
    assert rows(model, "dkv-fill:rows=4,choose=near")[:4] == [EVERY, [2, 3, 4, 8], [2, 3, 5, 6], [3, 4, 5, 6]]


def test_blend_weighs_age_against_distance(model: Transformer) -> None:
    """At the second step all are of one age, so the nearest come; what was left out for long comes in spite of it."""
    got = rows(model, "dkv-fill:rows=4,choose=blend")
    assert got[1] == [2, 3, 4, 8]
    assert {p for step in got[1:] for p in step} == set(EVERY)


def test_change_is_around_what_was_fixed_since(model: Transformer) -> None:
    """8 was fixed first, then 3: what stands beside it comes, the position before it first of two equals."""
    assert rows(model, "dkv-fill:rows=4,choose=change")[1:4] == [[3, 6, 7, 8], [2, 3, 4, 5], [1, 4, 5, 6]]


@pytest.mark.parametrize("choose", ["age", "blend", "change", "near"])
@given(
    prompts=st.lists(st.lists(st.integers(0, 251), min_size=1, max_size=8), min_size=1, max_size=3),
    room=st.integers(1, 12),
    decoder=st.sampled_from(["confidence", "random", "threshold:tau=0.2", "entropy"]),
)
def test_every_step_costs_the_same(
    choose: str, model: Transformer, prompts: list[list[int]], room: int, decoder: str
) -> None:
    """As many rows as there is room for, or as must be, or as there are; nothing is fixed from a row not computed."""
    cache = f"dkv-fill:rows={room},choose={choose}"
    state, ticks = start_and_play(model, prompts, GEN, cache=cache, decoder=decoder)
    length = state.canvas.length
    fixed = torch.zeros_like(state.canvas.live)
    for tick in ticks[1:]:
        _costs(tick, length, room)
        assert not (tick.committed & ~tick.rows).any()
        assert not (fixed & tick.committed).any()
        fixed |= tick.committed


def _costs(tick: StepOutput, length: torch.Tensor, room: int) -> None:
    for row, count in enumerate(tick.rows.sum(1).tolist()):
        if count:
            assert count >= min(room, int(length[row]))
            assert count <= max(room, 2 * GEN)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dkv-fill:rows=0", "rows=0 must be a whole number of at least 1"),
        ("dkv-fill:choose=all", "choose='all' is unknown; known: age, blend, change, near"),
    ],
)
def test_keys_out_of_range_are_refused(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_cache(spec)
