"""The memory: rows land in their own slots, scratch is never read, and the audit catches what nobody computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dkv.accel.cpu_ops import CellRows
from dkv.core.kv_cache import PLAIN_CACHE_OPS, CacheOps, KVCache
from dkv.core.loop import State, advance
from dkv.core.packing import exact, pack
from dkv.core.policy import CachePolicy, Plan, Step
from dkv.errors import AuditError
from dkv.models import Transformer
from tests.support.runs import POLICIES, play, start


def fresh_memory(batch: int = 2, width: int = 4) -> KVCache:
    return KVCache(2, batch, 1, width, 3, torch.float32)


def by_sixteen(rows: int) -> int:
    return -(-rows // 16) * 16


def test_rows_land_in_their_own_slots_of_their_own_layer() -> None:
    memory, rows = fresh_memory(), torch.tensor([[True, False, True, False], [False, False, False, True]])
    at = pack(rows, [2, 1], None)
    values = torch.arange(1.0, 10.0).view(3, 1, 3)
    memory.layers[1].write("k", at, values)
    keys, other = memory.layers[1].kv
    assert keys.shape == (2, 1, 4, 3)
    assert keys[0, 0, 0].equal(values[0, 0])
    assert keys[0, 0, 2].equal(values[1, 0])
    assert keys[1, 0, 3].equal(values[2, 0])
    assert int(keys.count_nonzero()) == 9
    assert not other.any()
    assert not memory.layers[0].kv[0].any()


def test_writing_everything_equals_writing_row_by_row() -> None:
    whole, single = fresh_memory(), fresh_memory()
    values = torch.randn(8, 1, 3, generator=torch.Generator().manual_seed(0))
    everything = torch.ones(2, 4, dtype=torch.bool)
    whole.layers[0].write("v", pack(everything, [4, 4], None), values)
    for n in range(8):
        row = torch.zeros(8, dtype=torch.bool)
        row[n] = True
        grid = row.view(2, 4)
        single.layers[0].write("v", pack(grid, grid.sum(1).tolist(), None), values[n : n + 1])
    assert whole.layers[0].kv[1].equal(single.layers[0].kv[1])


@pytest.mark.parametrize("ops", [PLAIN_CACHE_OPS, CellRows()], ids=["plain", "cells"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.sampled_from([1, 3, 4, 8])),
    spare=st.integers(0, 3),
    beside=st.integers(0, 2),
    seed=st.integers(0, 50),
)
def test_rows_of_a_part_are_written_and_found_again(
    ops: CacheOps, shape: tuple[int, int, int, int], spare: int, beside: int, seed: int, dtype: torch.dtype
) -> None:
    """In buffers that are wider than the part, from rows that lie apart."""
    (batch, heads, width, size), draw = shape, torch.Generator().manual_seed(seed)
    whole = KVCache(1, batch + spare, heads, width + spare, size, dtype, ops=ops)
    rows = torch.rand(batch, width, generator=draw) < 0.5
    at = pack(rows, rows.sum(1).tolist(), None)
    value = torch.randn(len(at.slot), heads + beside, size, generator=draw).to(dtype)[:, beside:]
    first = min(spare, 1)
    (layer,) = whole.part(batch, width, first).layers
    layer.write("k", at, value)
    expected = torch.zeros_like(whole.layers[0].buffers["k"])
    for n, (row, slot) in enumerate(rows.nonzero().tolist()):
        expected[first + row, :, slot] = value[n]
    assert whole.layers[0].buffers["k"].equal(expected)
    assert layer.take("k", at).equal(value)


def test_a_buffer_that_takes_anothers_place_is_the_one_written_to() -> None:
    (layer, _), at = fresh_memory().layers, pack(torch.tensor([[True, False, False, False]]), [1], None)
    layer.write("k", at, torch.ones(1, 1, 3))
    layer.buffers["k"] = torch.zeros(2, 1, 5, 3)
    layer.write("k", at, torch.full((1, 1, 3), 2.0))
    assert layer.buffers["k"][0, 0, 0].tolist() == [2, 2, 2]
    assert layer.kv[0].sum() == 6


def test_filling_rows_write_to_scratch_only() -> None:
    memory, rows = fresh_memory(), torch.tensor([[True, False, False, False], [False, False, False, False]])
    at = pack(rows, [1, 0], None, by_sixteen)
    assert len(at.slot) == (16 if not at.whole else 8)
    memory.layers[0].write("k", at, torch.ones(len(at.slot), 1, 3))
    assert int(memory.layers[0].kv[0].count_nonzero()) == 3


def test_values_are_stored_in_the_memory_dtype() -> None:
    memory = KVCache(1, 1, 1, 2, 2, torch.bfloat16)
    for rows in ([[True, False]], [[True, True]]):
        at = pack(torch.tensor(rows), [sum(rows[0])], None)
        memory.layers[0].write("k", at, torch.full((len(at.slot), 1, 2), 1.001))
    assert memory.layers[0].kv[0].dtype == torch.bfloat16
    assert memory.nbytes == 2 * 3 * 2 * 2


class Forgetful:
    """Leaves a slot out from the start."""

    def plan(self, step: Step) -> Plan:
        return Plan(step.canvas.live & (step.canvas.position != 0))


class Blind:
    """Leaves a slot out from the start, and does not look at it."""

    def plan(self, step: Step) -> Plan:
        seen = step.canvas.live & (step.canvas.position != 0)
        return Plan(seen, visible=seen)


def test_audit_stops_a_policy_that_reads_what_nobody_computed(model: Transformer) -> None:
    with pytest.raises(AuditError, match="slot 0"):
        play(start(model, [[1, 2], [3]], 2, cache=Forgetful()))
    play(start(model, [[1, 2], [3]], 2, cache=Forgetful(), audit=False))


def test_what_is_not_visible_need_not_be_computed(model: Transformer) -> None:
    """And attention really does not look there: the sequence is as if position 0 held anything."""
    one, two = (start(model, [[first, 2, 3]], 3, cache=Blind()) for first in (1, 200))
    play(one)
    play(two)
    assert one.canvas.tokens[0, 1:].equal(two.canvas.tokens[0, 1:])


@dataclass(frozen=True)
class Bold:
    """Leaves a slot out from the start, and asks for everything to be visible."""

    def plan(self, step: Step) -> Plan:
        return Plan(step.canvas.live & (step.canvas.position != 0), visible=step.canvas.live)


def test_a_slot_that_nobody_computed_is_never_visible(model: Transformer) -> None:
    """Where a policy says what is visible, the core leaves out what does not exist."""
    one, two = (start(model, [[1, 2, 3]], 3, cache=policy) for policy in (Bold(), Blind()))
    play(one)
    play(two)
    assert one.canvas.tokens.equal(two.canvas.tokens)


POISONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nan": lambda t: t.fill_(torch.nan),
    "huge": lambda t: t.fill_(1e30),
}


@torch.inference_mode()
def poison_scratch(state: State, poison: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for layer in state.memory.layers:
        for buffer in layer.buffers.values():
            scratch = buffer[:, :, -1]
            if buffer.shape[2] > state.canvas.tokens.shape[1]:
                poison(scratch)


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("cache", POLICIES)
def test_the_scratch_slot_is_never_read(cache: str, poison: str, model: Transformer) -> None:
    prompts = [[5, 6, 7], [8], [9, 10]]
    clean = start(model, prompts, 6, 3, cache=cache, bucket=by_sixteen)
    ticks = play(clean)
    dirty = start(model, prompts, 6, 3, cache=cache, bucket=by_sixteen)
    poison_scratch(dirty, POISONS[poison])
    again = []
    while (tick := advance(dirty)) is not None:
        again.append(tick)
        poison_scratch(dirty, POISONS[poison])
    assert dirty.canvas.tokens.equal(clean.canvas.tokens)
    for one, two in zip(ticks, again, strict=True):
        assert (one.predictions is None) == (two.predictions is None)
        if one.predictions is not None and two.predictions is not None:
            assert one.predictions.logits.equal(two.predictions.logits)


@pytest.mark.parametrize("cache", POLICIES)
def test_padding_slots_are_never_read(cache: str, model: Transformer) -> None:
    """Beyond a short sequence's end lies another's room: huge values there change nothing."""
    clean, dirty = (start(model, [[5, 6, 7, 8], [9]], 4, cache=cache) for _ in range(2))
    for layer in dirty.memory.layers:
        for buffer in layer.buffers.values():
            buffer[1, :, 5:8] = 1e30
    play(clean)
    play(dirty)
    assert dirty.canvas.tokens.equal(clean.canvas.tokens)


@pytest.mark.parametrize("cache", POLICIES)
def test_row_buckets_change_no_token(cache: str, model: Transformer) -> None:
    prompts = [[5, 6, 7], [8], [9, 10]]
    exactly, bucketed = (start(model, prompts, 6, 3, cache=cache, bucket=b) for b in (exact, by_sixteen))
    play(exactly)
    play(bucketed)
    assert exactly.canvas.tokens.equal(bucketed.canvas.tokens)


def test_policies_are_policies() -> None:
    assert isinstance(Forgetful(), CachePolicy)
