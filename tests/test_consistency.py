"""docs/consistency.md, line by line: how old what attention reads may be, and what it was computed from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dkv.caches import known_caches, make_cache
from dkv.core.canvas import NEVER
from dkv.core.policy import CachePolicy, Plan, Step
from dkv.models import Transformer
from tests.support.runs import start_and_play

PROMPTS = st.lists(st.lists(st.integers(0, 251), min_size=1, max_size=6), min_size=1, max_size=2)
SCHEDULES = st.sampled_from([(8, 8, 8), (8, 4, 8), (8, 4, 4), (8, 8, 5), (8, 2, 12)])
DECODERS = st.sampled_from(["confidence", "random", "entropy", "threshold:tau=0.3"])
FRESH, UNBOUNDED = 0, 10**9


@dataclass
class Read:
    """What one forward reads without computing it. ages [B, T], -1 elsewhere; stale: a decided token's K/V that were
    computed from its mask [B, T]; inside: positions of the active block."""

    ages: Tensor
    stale: Tensor
    prompt: Tensor
    response: Tensor
    inside: Tensor
    before: Tensor
    since_block: Tensor
    plan: Plan


@dataclass
class Watch:
    """A policy that notes the age of every slot before each forward."""

    inner: CachePolicy
    seen: list[tuple[Plan, Step, Tensor, Tensor, Tensor]]

    def plan(self, step: Step) -> Plan:
        plan = self.inner.plan(step)
        self.seen.append(
            (plan, step, step.computed_at.clone(), step.canvas.committed_at.clone(), step.num_forwards.clone())
        )
        return plan


def reads(network: Transformer, cache: str, prompts: list[list[int]], schedule: Any, decoder: str) -> Iterator[Read]:
    watch = Watch(make_cache(cache), [])
    _, ticks = start_and_play(network, prompts, *schedule, cache=watch, decoder=decoder)
    for tick, (plan, step, computed_at, committed_at, clock) in zip(ticks, watch.seen, strict=False):
        old = step.canvas.live & ~tick.rows & ~torch.tensor(tick.done)[:, None]
        position, (first, last) = step.canvas.position, step.block
        decided = (committed_at >= 0) & (committed_at < NEVER)
        yield Read(
            ages=torch.where(old, clock[:, None] - computed_at, -1),
            stale=old & decided & (computed_at <= committed_at),
            prompt=step.canvas.live & ~step.canvas.response,
            response=step.canvas.response,
            inside=(position >= first[:, None]) & (position < last[:, None]),
            before=position < first[:, None],
            since_block=step.block_step[:, None].expand_as(old),
            plan=plan,
        )


@pytest.fixture(params=["llada", "dream"])
def network(request: pytest.FixtureRequest, model: Transformer, dream: Transformer) -> Transformer:
    return model if request.param == "llada" else dream


BOUNDS = {  # oldest of the prompt, oldest of the response
    "none": (FRESH, FRESH),
    "dkv-decode:refresh=3": (2, 2),
    "dkv-decode:refresh=5,warmup=1": (4, 4),
    "dkv-greedy:refresh=3,window=1": (2, 2),
    "dkv-prefill": (UNBOUNDED, FRESH),
    "dkv-prefill:refresh=3": (2, FRESH),
    "dkv-pd:refresh=3": (UNBOUNDED, 2),
    "fast-prefix": (UNBOUNDED, UNBOUNDED),
    "fast-dual": (UNBOUNDED, UNBOUNDED),
    "dkv-fill:rows=4": (UNBOUNDED, UNBOUNDED),
    "dpad:window=6,sigma=1": (UNBOUNDED, UNBOUNDED),
}
RUNS = {"prompts": PROMPTS, "schedule": SCHEDULES, "decoder": DECODERS}


def test_every_cache_has_its_line() -> None:
    assert {spec.partition(":")[0] for spec in BOUNDS} | {"dllm-cache"} == set(known_caches())


@pytest.mark.parametrize("cache", BOUNDS)
@settings(max_examples=10)
@given(**RUNS)
def test_ages_are_bounded_and_no_mask_speaks_for_a_token(
    cache: str, network: Transformer, prompts: list[list[int]], schedule: Any, decoder: str
) -> None:
    of_prompt, of_response = BOUNDS[cache]
    for read in reads(network, cache, prompts, schedule, decoder):
        assert int(torch.where(read.prompt, read.ages, 0).max()) <= of_prompt
        assert int(torch.where(read.response, read.ages, 0).max()) <= of_response
        assert not read.stale.any()


@pytest.mark.parametrize(
    "cache", ["dkv-prefill", "dkv-pd:refresh=100", "fast-prefix", "fast-dual", "dpad:window=6,sigma=1"]
)
@settings(max_examples=10)
@given(**RUNS)
def test_nothing_is_older_than_the_block(
    cache: str, model: Transformer, prompts: list[list[int]], schedule: Any, decoder: str
) -> None:
    for read in reads(model, cache, prompts, schedule, decoder):
        assert (read.ages <= read.since_block).all()
        if cache == "fast-dual":
            assert not (read.inside & (read.ages >= 0)).any()
        if cache.startswith(("fast-prefix", "dpad")):
            assert not (~read.before & (read.ages >= 0)).any()


@pytest.mark.parametrize("cache", ["dkv-decode:refresh=100,warmup=1,delay=0", "dkv-decode:refresh=100,shift=un"])
def test_where_it_is_not_promised_it_does_not_hold(cache: str, model: Transformer, dream: Transformer) -> None:
    """So the tests above can fail."""
    network = dream if "shift" in cache else model
    assert any(read.stale.any() for read in reads(network, cache, [[1, 2, 3]], (8, 8, 8), "confidence"))


@settings(max_examples=10)
@given(**RUNS)
def test_dllm_cache_renews_on_time(network: Transformer, prompts: list[list[int]], schedule: Any, decoder: str) -> None:
    """Every kp-th and kr-th forward forces a whole region; in between the values of every response row are renewed."""
    cache = "dllm-cache:kp=4,kr=3,rho=0.3"
    for number, read in enumerate(reads(network, cache, prompts, schedule, decoder)):
        assert read.plan.forced is not None
        going = (read.ages >= 0).any(1) | (number == 0)
        if number % 4 == 0:
            assert (read.plan.forced | ~read.prompt)[going].all()
        if number % 3 == 0:
            assert (read.plan.forced | ~read.response)[going].all()
        assert int(torch.where(read.response, read.ages, 0).max()) == 0
        assert int(torch.where(read.prompt, read.ages, 0).max()) <= 3
