"""DPad: masked positions after the block are thinned with distance, alike for all; nothing else is left out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dkv.caches import make_cache
from dkv.core.canvas import GIVEN, NEVER
from dkv.core.loop import State, StepOutput, _observe, advance
from dkv.decoders import RandomOrder
from dkv.errors import SpecError
from dkv.models import Transformer
from tests.support.runs import positions, start, start_and_play

PROMPT, GEN = [1, 2, 3], 6
BLOCKS = [[[4, 3]], [[6, 5]], [[8, 7]]]
EVERY = list(range(9))
ALL, NONE = "dpad:window=100,sigma=0,scale=9", "dpad:window=1,scale=0"


def rows(model: Transformer, cache: str) -> list[list[int]]:
    _, ticks = start_and_play(model, [PROMPT], GEN, 2, cache=cache, decoder=RandomOrder(BLOCKS))
    return [positions(tick.rows)[0] for tick in ticks]


def test_with_all_kept_it_is_the_prefix_cache(model: Transformer) -> None:
    assert rows(model, ALL) == rows(model, "fast-prefix")
    one, two = (start_and_play(model, [PROMPT], GEN, 2, cache=cache)[0] for cache in (ALL, "fast-prefix"))
    assert one.canvas.tokens.equal(two.canvas.tokens)


def test_with_none_kept_nothing_after_the_block_is_computed(model: Transformer) -> None:
    assert rows(model, NONE) == [EVERY[:5], [3, 4], EVERY[:7], [5, 6], EVERY, [7, 8]]


def test_with_a_shift_the_row_before_the_block_predicts(dream: Transformer) -> None:
    assert rows(dream, NONE) == [EVERY[:5], [2, 3, 4], EVERY[:7], [4, 5, 6], EVERY, [6, 7, 8]]


def test_the_window_ends(model: Transformer) -> None:
    """Two positions after the block, all of them kept."""
    assert rows(model, "dpad:window=2,sigma=0,scale=9")[:2] == [EVERY[:7], [3, 4, 5, 6]]


def test_it_is_thinned_as_a_bell(model: Transformer) -> None:
    """Over many positions, the shares are those of the density."""
    state = start(model, [[1]], 6000, 100, cache="dpad:window=4000,sigma=3,scale=2")
    visible = state.policy.plan(_observe(state)).visible
    assert visible is not None
    kept = visible[0, 101:]
    share = 2 / (2 * torch.pi) ** 0.5 * torch.exp(-0.5 * (3 * torch.arange(4000) / 3999) ** 2)
    for part in range(0, 4000, 500):
        expected = share[part : part + 500].mean()
        assert abs(kept[part : part + 500].float().mean() - expected) < 4 * (expected * (1 - expected) / 500) ** 0.5
    assert not kept[4000:].any()


def test_given_text_is_never_left_out(model: Transformer) -> None:
    state = start(model, [[1, 2]], 8, 2, cache=NONE)
    state.canvas.committed_at[:, [7, 9]] = GIVEN
    plan = state.policy.plan(_observe(state))
    assert plan.visible is not None
    assert positions(plan.visible) == positions(plan.rows) == [[0, 1, 2, 3, 7, 9]]


@given(
    prompts=st.lists(st.lists(st.integers(0, 251), min_size=1, max_size=8), min_size=1, max_size=3),
    cache=st.sampled_from(["dpad:window=8,sigma=1", "dpad:window=6,sigma=2,scale=1.5", NONE]),
    decoder=st.sampled_from(["confidence", "random", "threshold:tau=0.2"]),
)
def test_what_is_kept_stays_kept_and_is_fresh(
    model: Transformer, prompts: list[list[int]], cache: str, decoder: str
) -> None:
    """From the block's start on, each position is computed at this step, or has never been."""
    state = start(model, prompts, 12, 3, cache=cache, decoder=decoder)
    while (tick := advance(state)) is not None:
        _fresh_or_never(state, tick)
    assert not state.canvas.masked.any()


def _fresh_or_never(state: State, tick: StepOutput) -> None:
    canvas, going = state.canvas, ~torch.tensor(tick.done)[:, None]
    after = canvas.live & (canvas.position >= tick.step.block[0][:, None]) & going
    assert ((tick.rows | (state.sequences.computed_at == NEVER)) | ~after).all()
    inside = after & (canvas.position < tick.step.block[1][:, None])
    assert (tick.rows | ~inside).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dpad:window=0", "window=0 must be a whole number of at least 1"),
        ("dpad:sigma=-1", "sigma=-1.0 must be 0 or a positive number"),
        ("dpad:scale=nan", "scale=nan must be 0 or a positive number"),
    ],
)
def test_keys_out_of_range_are_refused(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_cache(spec)
