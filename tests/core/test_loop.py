"""The loop: company, caches and buckets change no sequence's tokens; finishing early changes no text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dkv.core.canvas import NEVER, Canvas
from dkv.core.loop import Schedule, State, StepOutput, advance, finish
from dkv.core.policy import Plan, Step
from dkv.core.sampling import Predictions
from dkv.errors import AuditError
from dkv.models import Transformer
from tests.support.runs import POLICIES, Scripted, play, positions, start, start_and_play

PROMPTS = st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=8), min_size=2, max_size=4)
SCHEDULES = st.sampled_from([(6, 6, 6), (6, 3, 6), (6, 2, 3), (6, 6, 4), (6, 3, 10)])
DECODERS = st.sampled_from(["confidence", "random"])
TEMPERATURES = st.sampled_from([0.0, 0.7])


@pytest.mark.parametrize("cache", POLICIES)
@settings(max_examples=4)
@given(prompts=PROMPTS, schedule=SCHEDULES, decoder=DECODERS, temperature=TEMPERATURES)
def test_company_changes_nothing(
    cache: str,
    model: Transformer,
    prompts: list[list[int]],
    schedule: tuple[int, int, int],
    decoder: str,
    temperature: float,
) -> None:
    """Ragged prompts: each alone is as in the batch, in tokens, in when they were fixed and in rows computed.
    Few examples, of up to four: test_families.py has more, of every decoder, with guidance."""
    options = {"cache": cache, "decoder": decoder, "temperature": temperature}
    seeds = [7 * n for n in range(len(prompts))]
    together, ticks = start_and_play(model, prompts, *schedule, seeds=seeds, **options)
    for row, prompt in enumerate(prompts):
        alone, mine = start_and_play(model, [prompt], *schedule, seeds=seeds[row : row + 1], **options)
        width = alone.canvas.tokens.shape[1]
        assert together.canvas.tokens[row, :width].equal(alone.canvas.tokens[0])
        assert together.canvas.committed_at[row, :width].equal(alone.canvas.committed_at[0])
        assert [tick.counts[row] for tick in ticks] == [tick.counts[0] for tick in mine]


@dataclass(frozen=True)
class EachItsOwn:
    """Odd sequences cache, even ones do not: rows of one batch differ in the number of cached positions."""

    def plan(self, step: Step) -> Plan:
        full = (step.canvas.request % 2 == 0)[:, None] | (step.block_step == 0)[:, None]
        return Plan((full & step.canvas.live) | step.masked)


@given(prompts=PROMPTS, temperature=TEMPERATURES)
def test_company_that_caches_differently(prompts: list[list[int]], temperature: float, model: Transformer) -> None:
    state, ticks = start_and_play(model, prompts, 6, cache=EachItsOwn(), temperature=temperature)
    assert ticks[-1].counts[1] == 1
    for row, prompt in enumerate(prompts):
        alone = start(model, [prompt], 6, cache=EachItsOwn(), temperature=temperature, seeds=[row])
        alone.canvas.request += row
        play(alone)
        assert state.canvas.tokens[row, : len(prompt) + 6].equal(alone.canvas.tokens[0])


def same_run(one: tuple[State, list[StepOutput]], other: tuple[State, list[StepOutput]]) -> None:
    assert one[0].canvas.tokens.equal(other[0].canvas.tokens)
    assert one[0].canvas.committed_at.equal(other[0].canvas.committed_at)
    for a, b in zip(one[1], other[1], strict=True):
        assert a.rows.equal(b.rows)
        if a.predictions is not None and b.predictions is not None:
            assert a.predictions.logits.equal(b.predictions.logits)


@pytest.mark.parametrize(
    ("cached", "plain", "decoder"),
    [
        ("dkv-decode:refresh=1", "none", "confidence"),
        ("dkv-decode:refresh=1", "none", "random"),
        ("dkv-decode:refresh=1,delay=0,warmup=1", "none", "confidence"),
        ("dkv-greedy:refresh=1", "none", "random"),
        ("dkv-greedy:refresh=1,window=0", "none", "confidence"),
        ("dkv-prefill:refresh=1", "none", "confidence"),
        ("dkv-pd:refresh=1", "dkv-prefill", "confidence"),
        ("dkv-pd:refresh=1", "dkv-prefill", "random"),
        ("dkv-decode:refresh=100,warmup=100", "none", "confidence"),
    ],
)
@settings(max_examples=8)
@given(prompts=PROMPTS, schedule=SCHEDULES, temperature=TEMPERATURES)
def test_degenerate_settings_are_exact(
    cached: str,
    plain: str,
    decoder: str,
    model: Transformer,
    prompts: list[list[int]],
    schedule: tuple[int, int, int],
    temperature: float,
) -> None:
    """Logits bit for bit."""
    same_run(
        start_and_play(model, prompts, *schedule, cache=cached, decoder=decoder, temperature=temperature),
        start_and_play(model, prompts, *schedule, cache=plain, decoder=decoder, temperature=temperature),
    )


@pytest.mark.parametrize("cache", POLICIES[1:])
def test_every_cache_computes_less(cache: str, model: Transformer) -> None:
    _, ticks = start_and_play(model, [list(range(8))], 12, cache=cache, decoder="random")
    assert sum(tick.counts[0] for tick in ticks) < 12 * 20


@pytest.mark.parametrize("cache", POLICIES)
@pytest.mark.parametrize("decoder", ["confidence", "random"])
def test_every_position_is_fixed_exactly_once_and_in_its_block(cache: str, decoder: str, model: Transformer) -> None:
    state, ticks = start_and_play(model, [[1, 2, 3], [4]], 8, 4, 4, cache=cache, decoder=decoder)
    assert sum(tick.committed.long() for tick in ticks).equal(state.canvas.response.long())  # type: ignore[union-attr]
    for number, tick in enumerate(ticks):
        assert not (tick.committed & ~tick.step.query).any()
        for row, prompt in enumerate([3, 1]):
            first = prompt + 4 * (number // 2)
            assert set(positions(tick.committed)[row]) <= set(range(first, first + 4))
    assert not state.canvas.tokens.eq(model.config.mask_id)[state.canvas.live].any()


@pytest.mark.parametrize("cache", POLICIES)
def test_a_prompt_with_the_mask_id_is_left_alone(cache: str, model: Transformer) -> None:
    mask = model.config.mask_id
    state, ticks = start_and_play(model, [[mask, 5, mask], [6]], 4, cache=cache)
    assert state.canvas.tokens[0, :3].tolist() == [mask, 5, mask]
    assert not any(tick.step.query[0, :3].any() for tick in ticks)
    assert sum(int(tick.committed[0].sum()) for tick in ticks) == 4


def ending(model: Transformer, at: int, width: int, order: list[float]) -> Scripted:
    """A model that says 5 everywhere, end-of-text (0) at `at`, as sure as `order` says."""
    table = torch.zeros(width, 12)
    for position, sure in enumerate(order):
        table[position, 0 if position == at else 5] = sure
    return Scripted.like(model, table, mask_id=11, eos_ids=(0,))


def test_a_sequence_ends_once_all_before_its_end_of_text_is_fixed(model: Transformer) -> None:
    # Position 3 is the end; it comes first, then 4, 2, 1, and then nothing can change the text.
    scripted = ending(model, 3, 7, [0, 3, 4, 9, 6, 2, 1])
    state, ticks = start_and_play(scripted, [[8]], 6, stop_ids=(0,))
    assert [int(tick.committed.nonzero()[0, 1]) for tick in ticks] == [3, 4, 2, 1]
    assert state.canvas.tokens[0].tolist() == [8, 5, 5, 0, 5, 0, 0]
    assert bool(state.sequences.done.all())
    _, all_of_it = start_and_play(scripted, [[8]], 6)
    assert len(all_of_it) == 6


def test_a_finished_sequence_is_not_computed_any_more(model: Transformer) -> None:
    scripted = ending(model, 2, 9, [0, 9, 8, 7, 6, 5, 4, 3, 2])
    state, ticks = start_and_play(scripted, [[8], [8, 8, 8]], 6, stop_ids=(0,))
    assert [tick.counts for tick in ticks[:3]] == [[7, 9], [7, 9], [0, 9]]
    assert len(ticks) == 6
    assert state.sequences.num_forwards.tolist() == [2, 6]
    assert state.canvas.tokens[1].tolist() == [8, 8, 8, 5, 5, 5, 5, 5, 5]


def test_an_end_of_text_in_the_prompt_ends_nothing(model: Transformer) -> None:
    scripted = ending(model, -1, 5, [0, 1, 2, 3, 4])
    state, ticks = start_and_play(scripted, [[0, 0]], 3, stop_ids=(0,))
    assert len(ticks) == 3
    assert state.canvas.tokens[0].tolist() == [0, 0, 5, 5, 5]


def test_any_of_several_end_ids_ends(model: Transformer) -> None:
    scripted = ending(model, -1, 5, [0, 4, 3, 2, 1])
    _, ticks = start_and_play(scripted, [[8]], 4, stop_ids=(0, 5))
    assert len(ticks) == 1


def test_finish_fills_with_the_end_of_text(model: Transformer) -> None:
    state = start(model, [[1], [2]], 4)
    advance(state)
    finish(state, torch.tensor([True, False]))
    assert state.sequences.done.tolist() == [True, False]
    eos = model.config.eos_ids[0]
    assert int(state.canvas.tokens[0].eq(eos).sum()) >= 3
    assert not state.canvas.masked[0].any()
    ticks = play(state)
    assert [tick.counts[0] for tick in ticks] == [0, 0, 0]
    assert advance(state) is None


@pytest.mark.parametrize("decoder", ["confidence", "random"])
def test_caches_share_the_noise(decoder: str, model: Transformer) -> None:
    """At one seed a cached run draws the same noise: where logits agree, so do tokens. With a table they always do."""
    table = torch.randn(12, 12, generator=torch.Generator().manual_seed(2))
    scripted = Scripted.like(model, table, mask_id=11, eos_ids=(0,))
    runs = [
        start_and_play(scripted, [[1, 2], [3]], 8, 4, cache=cache, decoder=decoder, temperature=0.9)[0].canvas
        for cache in POLICIES
        if decoder == "random"
        or not cache.startswith(("dkv-greedy", "dkv-fill"))  # which reads less where it must predict the order
    ]
    assert all(run.tokens.equal(runs[0].tokens) for run in runs)
    assert all(run.committed_at.equal(runs[0].committed_at) for run in runs)


def test_seeds_matter_and_nothing_else_does(model: Transformer) -> None:
    def tokens(seed: int) -> list[int]:
        state, _ = start_and_play(model, [[1, 2]], 8, temperature=1.0, seeds=[seed])
        result: list[int] = state.canvas.tokens[0].tolist()
        return result

    assert tokens(3) == tokens(3)
    assert len({tuple(tokens(seed)) for seed in range(5)}) == 5


@dataclass(frozen=True)
class Hasty:
    """Fixes everything that is masked, read or not."""

    adaptive: ClassVar[bool] = False

    def commit_order(self, canvas: Canvas) -> Tensor:
        return torch.full_like(canvas.tokens, NEVER)

    def query(self, step: Step) -> Tensor:
        return step.masked & (step.canvas.position == step.canvas.prompt[:, None])

    def commit(self, step: Step, read: Predictions) -> Tensor:
        return step.masked


def test_audit_stops_a_decoder_that_fixes_what_was_not_read(model: Transformer) -> None:
    with pytest.raises(AuditError, match="had not read"):
        play(start(model, [[1, 2]], 3, decoder=Hasty()))


@pytest.mark.parametrize("cache", POLICIES)
@pytest.mark.parametrize("decoder", ["confidence", "random"])
def test_each_sequence_has_its_own_schedule(cache: str, decoder: str, model: Transformer) -> None:
    """Blocks and steps of one sequence do not meet those of another."""
    prompts, plans = [[1, 2, 3], [4], [5, 6]], [(6, 6), (3, 4), (2, 9)]
    together = start(model, prompts, 6, cache=cache, decoder=decoder)
    lengths = torch.tensor([length for length, _ in plans])
    blocks = 6 // lengths
    together.schedule = Schedule(lengths, blocks, torch.tensor([steps for _, steps in plans]) // blocks)
    ticks = play(together)
    assert len(ticks) == 9
    for row, (prompt, plan) in enumerate(zip(prompts, plans, strict=True)):
        alone, mine = start_and_play(model, [prompt], 6, *plan, cache=cache, decoder=decoder, seeds=[row])
        assert together.canvas.tokens[row, : len(prompt) + 6].equal(alone.canvas.tokens[0])
        assert together.canvas.committed_at[row, : len(prompt) + 6].equal(alone.canvas.committed_at[0])
        assert [tick.counts[row] for tick in ticks][: len(mine)] == [tick.counts[0] for tick in mine]
