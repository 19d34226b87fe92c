"""Recorded forwards: the same tokens as without, no trace of a rehearsal, and a way back where one fails.

There is no GPU here: a fake capture keeps the function and runs it again on whatever its tensors hold by then.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dkv
from dkv.accel.backend import Backend
from dkv.accel.compile_report import CompileReport
from dkv.accel.cuda_graphs import Graphed
from dkv.accel.graph_cache import Table
from dkv.accel.graph_inputs import address_of, copied, fitted, renew, sheltering, signature
from dkv.core.kv_cache import KVCache
from dkv.core.layer_rules import DENSE
from dkv.core.loop import State, advance
from dkv.core.packing import Counted, exact, pack, select_rows
from dkv.core.policy import rules_of
from dkv.layers.transformer import sixteenths
from dkv.lm import DiffusionLM
from dkv.models import Transformer
from tests.support.capture import Replayed
from tests.support.runs import POLICIES, play, start

ONE, RAGGED = [[3, 4, 5, 6, 7]], [[3, 4, 5], [9] * 20, [8, 1]]


def alike(one: KVCache, other: KVCache) -> bool:
    """Whether all slots but scratch hold the same."""
    pairs = zip(one.layers, other.layers, strict=True)
    return all(
        torch.allclose(b[:, :, :-1], o.buffers[name][:, :, :-1], atol=1e-5)
        for layer, o in pairs
        for name, b in layer.buffers.items()
    )


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("prompts", [ONE, RAGGED], ids=["one", "ragged"])
@pytest.mark.parametrize("cache", POLICIES)
def test_replayed_forwards_do_what_the_forwards_did(
    model: Transformer, cache: str, prompts: list[list[int]], guided: bool
) -> None:
    capture, scale = Replayed(), 1.0 if guided else 0.0
    plain = start(model, prompts, 12, 6, cache=cache, cfg_scale=scale, bucket=sixteenths)
    fast = start(
        Graphed(model, capture, CompileReport()), prompts, 12, 6, cache=cache, cfg_scale=scale, bucket=sixteenths
    )
    while advance(plain) is not None:
        advance(fast)
        assert torch.equal(plain.canvas.tokens, fast.canvas.tokens)
        assert alike(plain.memory, fast.memory)
    assert capture.replays > 0


def test_dream_too(dream: Transformer) -> None:
    capture = Replayed()
    models = dream, Graphed(dream, capture, CompileReport())
    plain, fast = (start(m, ONE, 12, cache="dllm-cache:kp=5,kr=3", bucket=sixteenths) for m in models)
    play(plain)
    play(fast)
    assert torch.equal(plain.canvas.tokens, fast.canvas.tokens)
    assert capture.replays > 0


def forward(state: State, rows: list[int]) -> torch.Tensor:
    """Carry some positions of the one sequence."""
    mask = torch.zeros_like(state.canvas.live)
    mask[0, rows] = True
    at = pack(mask, [len(rows)], None, state.bucket)
    tokens = torch.nn.functional.pad(state.canvas.tokens, (0, 1)).view(-1)[at.slot_mapping]
    with torch.inference_mode():
        return state.model.forward(tokens, at, state.memory, DENSE)


def test_a_forward_is_recorded_when_it_is_met_for_the_second_time(model: Transformer) -> None:
    capture = Replayed()
    state = start(Graphed(model, capture, CompileReport()), ONE, 12)
    for rows, recorded, replays in (([1, 2], 0, 0), ([3, 4], 1, 1), ([5, 1], 1, 2), ([1, 2, 3], 1, 2), ([1, 2], 1, 3)):
        forward(state, rows)
        assert (len(capture.outs), capture.replays) == (recorded, replays)


def test_what_is_returned_is_the_callers_own(model: Transformer) -> None:
    state = start(Graphed(model, Replayed(), CompileReport()), ONE, 12)
    forward(state, [1, 2])
    first = forward(state, [1, 2])
    kept = first.clone()
    forward(state, [7, 8])
    assert torch.equal(first, kept)


def test_other_buffers_are_another_recording(model: Transformer) -> None:
    """A recording reads the addresses it was made with: those of another memory would be read and written."""
    capture = Replayed()
    graphed = Graphed(model, capture, CompileReport())
    states = [start(graphed, ONE, 12) for _ in range(2)]
    for state in (*states, *states):
        forward(state, [1, 2])
    assert len(capture.outs) == 2
    assert address_of(states[0].memory) != address_of(states[1].memory)
    part = states[0].memory.part(1, 9)
    assert address_of(part) != address_of(states[0].memory)


def test_a_rehearsal_leaves_no_trace(model: Transformer) -> None:
    """It runs on the real buffers, and V-verify ranks rows by what these held before."""
    state = start(model, ONE, 12, cache="dllm-cache:kp=5,kr=3,rho=0.4")
    play(state)
    before = copied_memory(state.memory)
    whole = state.canvas.live
    at = pack(whole, [17], None)
    at = replace(
        at,
        selection=select_rows(
            at, Counted([17], torch.tensor([17])), Counted([3], torch.tensor([3])), None, None, exact
        ),
    )
    places, tokens = sheltering(fitted(at, exact)), torch.zeros(17, dtype=torch.int64)
    with torch.inference_mode():
        model.forward(tokens, places, state.memory, rules_of(state.policy))
    assert all(
        torch.equal(b[:, :, :-1], before[n][name][:, :, :-1])
        for n, layer in enumerate(state.memory.layers)
        for name, b in layer.buffers.items()
    )


def copied_memory(memory: KVCache) -> list[dict[str, torch.Tensor]]:
    return [{name: b.clone() for name, b in layer.buffers.items()} for layer in memory.layers]


def test_what_cannot_be_recorded_runs_as_ever_and_is_not_tried_again(model: Transformer) -> None:
    capture = Replayed(fails=True)
    plain = start(model, RAGGED, 12, cache="dllm-cache:kp=5,kr=3,rho=0.4", bucket=sixteenths)
    graphed = Graphed(model, capture, CompileReport())
    fast = start(graphed, RAGGED, 12, cache="dllm-cache:kp=5,kr=3,rho=0.4", bucket=sixteenths)
    play(plain)
    play(fast)
    assert torch.equal(plain.canvas.tokens, fast.canvas.tokens)
    assert alike(plain.memory, fast.memory)
    assert graphed.report.graphs == 0
    assert 0 < graphed.report.refused <= 4
    assert graphed.report.note == "RuntimeError: capture: operation not permitted"


def test_sequences_that_attend_alone_are_never_recorded(model: Transformer) -> None:
    capture = Replayed()
    state = start(Graphed(model, capture, CompileReport()), [[3] * 60, [4], [5], [6]], 4)
    rows = torch.zeros_like(state.canvas.live)
    rows[0, :60] = True
    rows[1:, 0] = True
    at = pack(rows, [60, 1, 1, 1], state.canvas.live[:, None, None])
    for _ in range(3):
        state.model.forward(torch.zeros(63, dtype=torch.int64), at, state.memory, DENSE)
    assert capture.outs == []


counts = st.lists(st.integers(0, 6), min_size=2, max_size=4).filter(any)


@given(counts, st.integers(0, 5))
def test_places_made_alike_attend_alike(some: list[int], seed: int) -> None:
    rows = torch.zeros(len(some), 7, dtype=torch.bool)
    for row, count in enumerate(some):
        rows[row, :count] = True
    at = pack(rows, some, None, sixteenths)
    draw = torch.Generator().manual_seed(seed)
    q = torch.randn(len(at.slot), 2, 4, generator=draw)
    k, v = torch.randn(2, len(some), 2, 7, 4, generator=draw)
    attention = torch.nn.functional.scaled_dot_product_attention
    mixed, wide = at.attend(q, k, v, attention), fitted(at, lambda n: n + 3).attend(q, k, v, attention)
    assert torch.allclose(mixed[: sum(some)], wide[: sum(some)], atol=1e-6)


def test_renewed_copies_hold_what_they_are_given() -> None:
    rows = torch.zeros(2, 9, dtype=torch.bool)
    rows[0, :3], rows[1, 4:6] = True, True
    other = torch.zeros(2, 9, dtype=torch.bool)
    other[0, 5:8], other[1, 1:3] = True, True
    mask = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    one, two = (pack(r, [3, 2], mask, sixteenths) for r in (rows, other))
    assert signature(one) == signature(two)
    assert signature(one) != signature(pack(rows, [3, 2], None, sixteenths))
    held = copied(one)
    renew(held, two)
    assert torch.equal(held.slot, two.slot)
    assert not torch.equal(one.slot, two.slot)


class TestTable:
    def test_the_least_recently_used_goes_once_it_is_out_of_use(self) -> None:
        table = Table[str](2)
        for key in "abab":
            if table.find(key) is None and table.worth(key):
                table.put(key, key.upper())
        assert (table.find("a"), table.find("b"), len(table)) == ("A", "B", 2)
        assert not table.worth("c")  # met once
        assert not table.worth("c")  # met twice, but a and b are in use
        for _ in range(8):
            table.find("b")
        assert table.worth("c")
        table.put("c", "C")
        assert (table.find("a"), table.find("b"), table.find("c"), len(table)) == (None, "B", "C", 2)

    def test_what_was_refused_is_not_worth_it_again(self) -> None:
        table = Table[str](2)
        table.worth("a")
        assert table.worth("a")
        table.refuse("a")
        assert not any(table.worth("a") for _ in range(3))

    @given(st.lists(st.integers(0, 30), max_size=300), st.integers(1, 5))
    def test_it_never_holds_more_than_it_may(self, keys: list[int], size: int) -> None:
        table = Table[int](size)
        for key in keys:
            found = table.find(key)
            assert found in (None, key)
            if found is None and table.worth(key):
                table.put(key, key)
            assert len(table) <= size


def graphed_lm(lm: DiffusionLM, capture: Replayed) -> DiffusionLM:
    """As `load` makes it on a GPU."""
    graphed = Graphed(lm.network, capture, CompileReport())
    backend = Backend(lm.network, graphed, graphed.bucket, {"cuda_graphs": graphed.report})
    return DiffusionLM(graphed, lm.tokenizer, audit=True, directory=lm.directory, backend=backend)


def test_the_engine_runs_on_recorded_forwards(lm: DiffusionLM) -> None:
    """Requests of unequal lengths that join and leave; rows come in the sizes that recordings ask for."""
    assert isinstance(lm.model, Transformer)
    capture = Replayed()
    fast = graphed_lm(lm, capture)
    assert fast.bucket(100) == 104
    asked = [[3] * 5, [4] * 17, [5] * 30]
    plain, quick = (m.generate(asked, gen_length=16, cache="dkv-decode", seed=1, batch_size=2) for m in (lm, fast))
    assert [g.token_ids for g in plain] == [g.token_ids for g in quick]
    assert capture.replays > 0
    assert fast.compile_report["cuda_graphs"].graphs == len(capture.outs)
    assert str(fast.compile_report["cuda_graphs"]).startswith(f"{len(capture.outs)} graphs in ")


def test_a_recorded_model_is_saved_as_it_was_loaded(lm: DiffusionLM, tmp_path: Path) -> None:
    fast = graphed_lm(lm, Replayed())
    fast.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").exists() or list((tmp_path / "saved").glob("*.safetensors"))


def test_load_refuses_graphs_without_a_gpu(bare: Path) -> None:
    with pytest.raises(dkv.SettingError, match="cuda_graphs=True needs device='cuda', not 'cpu'"):
        dkv.load(bare, device="cpu", cuda_graphs=True)
    with pytest.raises(dkv.SettingError, match="cuda_graphs=True does not go with tensor_parallel=2"):
        dkv.load(bare, cuda_graphs=True, tensor_parallel=2)
