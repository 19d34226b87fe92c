"""Packing of ragged rows, readers under a shift, and LLaDA's schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dkv.core.packing import PackedRows, exact, pack
from dkv.core.policy import CachePolicy, Decoder, rows_predicting
from dkv.models import Transformer
from tests.support.runs import Recorder, Scripted, play, start, start_and_play

MASKS = st.integers(1, 4).flatmap(
    lambda batch: st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=batch, max_size=batch)
)


def by_eight(rows: int) -> int:
    return -(-rows // 8) * 8


def packed(rows: list[list[bool]], bucket: str = "exact") -> PackedRows:
    return pack(torch.tensor(rows), [sum(row) for row in rows], None, by_eight if bucket == "eight" else exact)


@given(MASKS.filter(lambda rows: any(map(any, rows))), st.sampled_from(["exact", "eight"]))
def test_pack_lists_every_row_once_and_in_order(rows: list[list[bool]], bucket: str) -> None:
    at = packed(rows, bucket)
    wanted = [(b, t) for b, row in enumerate(rows) for t, carried in enumerate(row) if carried]
    places = list(zip(at.sequence.tolist(), at.slot.tolist(), strict=True))
    assert places[: len(wanted)] == wanted
    assert set(places[len(wanted) :]) <= {(0, 5)}  # filling: the scratch slot of sequence 0
    assert at.slot_mapping.tolist() == [b * 6 + t for b, t in places]
    assert at.whole == (len(wanted) == 5 * len(rows))
    if bucket == "eight" and not at.whole:
        assert len(places) % 8 == 0


@given(MASKS.filter(lambda rows: any(map(any, rows))), st.sampled_from(["exact", "eight"]))
def test_each_row_attends_to_its_own_sequence(rows: list[list[bool]], bucket: str) -> None:
    """However unlike the sequences are in their numbers of rows: some attend side by side, some alone."""
    at, count = packed(rows, bucket), sum(map(sum, rows))
    torch.manual_seed(0)
    q, k = torch.randn(len(at.slot), 2, 3), torch.randn(len(rows), 2, 5, 3)

    def score(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return (q[:, :, :, None] * k[:, :, None]).sum(-1) @ v

    found = at.attend(q, k, k, score)
    for n, (b, slot) in enumerate(zip(at.sequence.tolist(), at.slot.tolist(), strict=True)):
        if slot < 5 and n < count:
            expected = score(q[n : n + 1].transpose(0, 1)[None], k[b : b + 1], k[b : b + 1], None)
            assert torch.allclose(found[n].view(2, 3), expected[0, :, 0])


def test_a_sequence_with_many_more_rows_attends_alone() -> None:
    at = packed([[True] * 5, *([[False] * 4 + [True]] * 9)], "exact")
    assert at.grouping.shape == (10, 1)
    assert at.grouping.alone == ((0, slice(0, 5)),)
    assert packed([[True] * 5] * 2, "exact").grouping.alone == ()


def test_readers_without_a_shift_are_the_wanted() -> None:
    wanted = torch.tensor([[False, True, False, True]])
    assert rows_predicting(wanted, 0).equal(wanted)


def test_readers_with_a_shift_are_the_left_neighbours_and_row_0_predicts_itself() -> None:
    assert rows_predicting(torch.tensor([[False, True, False, True]]), 1).tolist() == [[True, False, True, False]]
    assert rows_predicting(torch.tensor([[True, False, False, False]]), 1).tolist() == [[True, False, False, False]]


@pytest.mark.parametrize(
    ("gen", "block", "steps", "per_step"),
    [
        (4, 4, 4, [1, 1, 1, 1]),
        (5, 5, 3, [2, 2, 1]),
        (7, 7, 4, [2, 2, 2, 1]),
        (3, 3, 5, [1, 1, 1, 0, 0]),
        (6, 3, 4, [2, 1, 2, 1]),
        (4, 2, 6, [1, 1, 0, 1, 1, 0]),
        (4, 4, 1, [4]),
    ],
)
def test_schedule(gen: int, block: int, steps: int, per_step: list[int], model: Transformer) -> None:
    """An even split of the block, what is left over to the early steps, and idle steps where there are too many."""
    state, ticks = start_and_play(model, [[1, 2], [3]], gen, block, steps)
    assert [tick.committed.sum(1).tolist() for tick in ticks] == [[n, n] for n in per_step]
    assert not state.canvas.masked.any()


@pytest.mark.parametrize("cache", ["none", "dkv-decode:refresh=100", "dkv-greedy:refresh=100", "dkv-pd"])
@pytest.mark.parametrize("decoder", ["confidence", "random"])
def test_idle_steps_do_not_end_a_run(cache: str, decoder: str, model: Transformer) -> None:
    """With more steps than tokens a policy may have nothing to compute, and the next block is still to come."""
    state, ticks = start_and_play(model, [[1, 2]], 6, 2, 18, cache=cache, decoder=decoder)
    assert len(ticks) == 18
    assert not state.canvas.masked.any()
    assert bool(state.sequences.done.all())


def test_a_step_shows_blocks_clocks_and_ages(model: Transformer) -> None:
    recorder = Recorder(start(model, [[1, 2, 3], [4]], 4, 2).policy)
    state = start(model, [[1, 2, 3], [4]], 4, 2, cache=recorder)
    ticks = play(state)
    assert [tick.step.num_forwards.tolist() for tick in ticks] == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert [tick.step.block_step.tolist() for tick in ticks] == [[0, 0], [1, 1], [0, 0], [1, 1]]
    assert [tick.step.block[0].tolist() for tick in ticks] == [[3, 1], [3, 1], [5, 3], [5, 3]]
    assert [tick.step.block[1].tolist() for tick in ticks] == [[5, 3], [5, 3], [7, 5], [7, 5]]
    assert not recorder.fresh[0].any()
    for before, tick in zip(recorder.fresh[1:], ticks, strict=False):
        assert before.equal(tick.committed)
    live = state.canvas.live
    assert recorder.computed_at[1][live].eq(0).all()
    assert recorder.computed_at[2][live].eq(1).all()


def test_a_step_that_wants_something_else_knows_what_it_knew(model: Transformer) -> None:
    recorder = Recorder(start(model, [[1, 2, 3]], 4).policy)
    (tick, *_) = play(start(model, [[1, 2, 3]], 4, cache=recorder))
    step, other = tick.step, torch.zeros_like(tick.step.query)
    known = step.open, step.num_transfer_tokens, step.query_rows
    again = step.with_query(other)
    assert again.open is known[0]
    assert again.num_transfer_tokens is known[1]
    assert again.query is other
    assert not again.query_rows.any()
    assert known[2].any()


def test_score_is_the_confidence_read_last(model: Transformer) -> None:
    recorder = Recorder(start(model, [[1]], 3).policy)
    ticks = play(start(model, [[1, 2]], 3, cache=recorder))
    assert ticks[0].predictions is not None
    assert recorder.score[0].eq(-torch.inf).all()
    assert recorder.score[1].equal(ticks[0].predictions.spread(ticks[0].predictions.confidence, -torch.inf))


def test_a_decoder_that_wants_more_than_the_plan_gets_it(model: Transformer) -> None:
    """No token is ever chosen from a stale row: the core adds the rows that are read."""

    class Nothing:
        def plan(self, step: object) -> object:
            first = step.num_forwards[:, None] == 0  # type: ignore[attr-defined]
            return type(start(model, [[1]], 1).policy.plan(step))(step.canvas.live & first)  # type: ignore

    state, ticks = start_and_play(model, [[1, 2]], 3, cache=Nothing())
    assert [tick.counts for tick in ticks] == [[5], [2], [1]]
    assert not state.canvas.masked.any()


def test_readers_are_computed_under_a_shift(model: Transformer) -> None:
    """With a shift of 1, the token at p comes from row p - 1, which is carried."""
    table = torch.zeros(5, 8)
    table[torch.arange(5), torch.arange(5)] = 5.0
    shifted = Scripted(replace(model.config, vocab=8, mask_id=7, shift=1), table)
    state, ticks = start_and_play(shifted, [[6, 6]], 3, cache="dkv-greedy:refresh=100,window=0")
    assert state.canvas.tokens.tolist() == [[6, 6, 1, 2, 3]]
    assert all(tick.rows[tick.step.query_rows].all() for tick in ticks)


def test_protocols_are_checkable(model: Transformer) -> None:
    state = start(model, [[1]], 1)
    assert isinstance(state.policy, CachePolicy)
    assert isinstance(state.decoder, Decoder)
    assert not isinstance(object(), CachePolicy)
    assert not isinstance(object(), Decoder)
