"""The engine against a slow second implementation, over random schedules that the recorded traces do not cover.

Other block lengths, several tokens a step, uneven steps, more steps than tokens, windows wider than the canvas, a
refresh beyond the step count, ragged batches, grouped queries and tied heads.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from dkv.decoders import RandomOrder
from dkv.models import Transformer, load_model
from tests.support.checkpoints import MASK, config_of, tensors_of, write_checkpoint
from tests.support.oracle import Oracle, Trace
from tests.support.runs import Watched, play, positions, start

MODELS = {
    "plain": config_of(d_model=16, n_heads=2, n_kv_heads=2, mlp_hidden_size=24),
    "grouped": config_of(d_model=16, n_heads=4, n_kv_heads=2, mlp_hidden_size=24, rope_theta=500.0, weight_tying=True),
}


@dataclass(frozen=True)
class Setup:
    """A random configuration."""

    prompts: list[list[int]]
    gen: int
    block_length: int
    steps: int
    refresh: int
    window: int
    orders: list[list[list[int]]]

    @classmethod
    def draw(cls, seed: int) -> Setup:
        rng = random.Random(seed)
        block_length, blocks = rng.choice([1, 2, 3, 4, 5, 8]), rng.choice([1, 1, 2, 3])
        gen = block_length * blocks
        per_block = rng.choice([1, 2, 3, block_length, block_length, block_length + 3])
        prompts = [[rng.randrange(MASK - 4) for _ in range(rng.randrange(1, 7))] for _ in range(rng.choice([1, 2, 3]))]
        orders = [
            [
                rng.sample(range(len(p) + b * block_length, len(p) + (b + 1) * block_length), block_length)
                for p in prompts
            ]
            for b in range(blocks)
        ]
        refresh, window = rng.choice([1, 2, 3, 4, 100]), rng.choice([0, 1, 2, 3, 4, 50])
        return cls(prompts, gen, block_length, per_block * blocks, refresh, window, orders)


@pytest.fixture(scope="module", params=sorted(MODELS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Transformer, Oracle]:
    config = MODELS[request.param]
    tensors = tensors_of(config, seed=11)
    directory = write_checkpoint(tmp_path_factory.mktemp("oracle"), config, tensors)
    return load_model(directory, torch.device("cpu"), torch.float32), Oracle(config, tensors)


def compare(model: Transformer, setup: Setup, traces: list[Trace], **options: Any) -> None:
    """Rows, tokens, confidences and logits of every step of every sequence."""
    assert min(trace.margin for trace in traces) > 1e-5, "a choice hangs on rounding: draw another seed"
    watched = Watched(model)
    state = start(watched, setup.prompts, setup.gen, setup.block_length, setup.steps, **options)
    ticks = play(state)
    assert len(ticks) == setup.steps
    forwards = iter(watched.seen)
    for i, tick in enumerate(ticks):
        played = [trace.steps[i] for trace in traces]
        assert positions(tick.rows) == [step.fed for step in played]
        assert positions(tick.committed) == [sorted(step.decoded) for step in played]
        assert tick.counts == [len(step.fed) for step in played]
        if not any(tick.counts):
            continue
        at, logits = next(forwards)
        wanted = torch.stack([step.logits[p] for step in played for p in step.fed]).float()
        assert list(zip(at.sequence.tolist(), at.slot.tolist(), strict=True)) == [
            (row, p) for row, step in enumerate(played) for p in step.fed
        ]
        torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-4)
        if tick.predictions is not None:
            confidence = tick.predictions.spread(tick.predictions.confidence, -torch.inf).exp()
            for row, step in enumerate(played):
                for p, value in step.confidence.items():
                    assert float(confidence[row, p]) == pytest.approx(value, abs=1e-4)
    for row, trace in enumerate(traces):
        assert state.canvas.tokens[row, : len(trace.tokens)].tolist() == trace.tokens


@pytest.mark.parametrize("seed", range(12))
def test_vanilla(seed: int, pair: tuple[Transformer, Oracle]) -> None:
    setup = Setup.draw(seed)
    traces = [pair[1].confident(p, setup.gen, setup.block_length, setup.steps) for p in setup.prompts]
    compare(pair[0], setup, traces)


@pytest.mark.parametrize("seed", range(100, 124))
def test_decode(seed: int, pair: tuple[Transformer, Oracle]) -> None:
    setup = Setup.draw(seed)
    traces = [pair[1].confident(p, setup.gen, setup.block_length, setup.steps, setup.refresh) for p in setup.prompts]
    compare(pair[0], setup, traces, cache=f"dkv-decode:refresh={setup.refresh}")


@pytest.mark.parametrize("delay", [0, 2])
@pytest.mark.parametrize("seed", range(200, 206))
def test_decode_at_other_delays(seed: int, delay: int, pair: tuple[Transformer, Oracle]) -> None:
    setup = Setup.draw(seed)
    traces = [
        pair[1].confident(p, setup.gen, setup.block_length, setup.steps, setup.refresh, delay) for p in setup.prompts
    ]
    compare(pair[0], setup, traces, cache=f"dkv-decode:refresh={setup.refresh},delay={delay}")


@pytest.mark.parametrize("seed", range(300, 330))
def test_greedy(seed: int, pair: tuple[Transformer, Oracle]) -> None:
    setup = Setup.draw(seed)
    traces = [
        pair[1].greedy(
            prompt,
            setup.gen,
            setup.block_length,
            setup.steps,
            [block[row] for block in setup.orders],
            setup.refresh,
            setup.window,
        )
        for row, prompt in enumerate(setup.prompts)
    ]
    cache = f"dkv-greedy:refresh={setup.refresh},window={setup.window}"
    compare(pair[0], setup, traces, cache=cache, decoder=RandomOrder(setup.orders))


def test_draws_cover_the_corners() -> None:
    """The seeds above really hold what they are there for."""
    setups = [Setup.draw(seed) for seed in (*range(12), *range(100, 124), *range(200, 206), *range(300, 330))]
    assert any(s.steps > s.gen and s.gen > s.block_length for s in setups)
    assert any(s.steps < s.gen and s.gen % s.steps for s in setups)
    assert any(s.window > s.gen for s in setups[42:])
    assert any(s.window and s.steps < s.gen for s in setups[42:])
    assert any(len({len(p) for p in s.prompts}) > 1 for s in setups)
    assert any(s.refresh > s.steps for s in setups)
