"""The promises that hold on the embedded model, on real prompts: minutes, so marked slow."""

from __future__ import annotations

import pytest

import dkv
from dkv.tiny import TASKS, load_eval
from tests.support.runs import POLICIES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny() -> dkv.DiffusionLM:
    return dkv.load("tiny", device="cpu", dtype="float32")


def prompts(count: int) -> list[str]:
    """Prompts of every task in turn, of very different lengths, none so long that the tests would take hours."""
    short = [[e.prompt for e in load_eval(task) if len(e.prompt) < 600] for task in sorted(TASKS)]
    turns = [prompt for turn in zip(*(s for s in short if s), strict=False) for prompt in turn]
    assert len(turns) >= count
    return turns[:count]


def test_refreshing_at_every_step_is_no_cache(tiny: dkv.DiffusionLM) -> None:
    """50 prompts, token for token, with the end-of-text honoured and the traces equal."""
    runs = [
        tiny.generate(prompts(50), gen_length=32, cache=cache, seed=0, trace=True, batch_size=10)
        for cache in ("none", "dkv-decode:refresh=1")
    ]
    for plain, cached in zip(*runs, strict=True):
        assert plain.token_ids == cached.token_ids
        assert plain.trace == cached.trace


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("cache", POLICIES)
def test_sixteen_ragged_prompts_in_any_company(cache: str, temperature: float, tiny: dkv.DiffusionLM) -> None:
    """In one batch, in four, and alone."""
    chosen = prompts(16)
    assert len({len(p) for p in chosen}) > 8
    runs = [
        [r.token_ids for r in tiny.generate(
            chosen, gen_length=24, block_length=12, cache=cache, temperature=temperature, seed=list(range(16)),
            batch_size=size,
        )]
        for size in (16, 4, 1)
    ]  # fmt: skip
    assert runs[0] == runs[1] == runs[2]


def test_the_delays_differ(tiny: dkv.DiffusionLM) -> None:
    """All run; between them, something comes out differently."""
    runs = [
        tiny.generate(
            prompts(20), gen_length=32, cache=f"dkv-decode:refresh=16,delay={delay}", seed=0, trace=True, batch_size=10
        )
        for delay in (0, 1, 2)
    ]
    traces = [[result.trace for result in run] for run in runs]
    assert traces[0] != traces[1] != traces[2] != traces[0]


def test_greedy_with_the_same_order_computes_little(tiny: dkv.DiffusionLM) -> None:
    """The order is the same with and without the cache; with refresh 1 so are the tokens."""
    runs = {
        cache: tiny.generate(
            prompts(10), gen_length=32, cache=cache, decoder="random", seed=1, trace=True, stop_at_eos=False
        )
        for cache in ("none", "dkv-greedy:refresh=1", "dkv-greedy:refresh=8,window=4")
    }
    plain, exact, cached = runs.values()
    for one, two, three in zip(plain, exact, cached, strict=True):
        assert one.trace == two.trace
        assert [[p for p, _ in step] for step in one.trace or []] == [
            [p for p, _ in step] for step in three.trace or []
        ]
        assert three.stats.rows_computed < one.stats.rows_computed / 3
