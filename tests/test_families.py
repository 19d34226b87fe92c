"""Any cache with any decoder on either family, ragged and guided: company changes nothing, identities hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dkv.core.loop import State, StepOutput
from dkv.core.policy import rows_predicting
from dkv.decoders import known_decoders
from dkv.models import Transformer
from tests.support.runs import POLICIES, start_and_play

DECODERS = (
    "confidence",
    "random",
    "entropy",
    "entropy:alg_temp=0.5",
    "maskgit-plus",
    "topk-margin",
    "origin",
    "threshold:tau=0.2",
    "factor:factor=1.5",
    "entropy-bound:gamma=4",
    "local-leap:tau=0.2,near=0.1",
    "credit:tau=0.02,alpha=3",
)
CACHES = (
    *POLICIES,
    "dkv-decode:refresh=4,shift=un",
    "dkv-pd:refresh=3,shift=un",
    "dllm-cache:kp=6,kr=3,cfg_interval=3",
)
PROMPTS = st.lists(st.lists(st.integers(0, 251), min_size=1, max_size=8), min_size=2, max_size=3)
SCHEDULES = st.sampled_from([(6, 6, 6), (6, 3, 6), (6, 2, 3), (6, 6, 4), (6, 3, 10)])
OPTIONS = st.fixed_dictionaries(
    {
        "decoder": st.sampled_from(DECODERS),
        "temperature": st.sampled_from([0.0, 0.0, 0.7]),
        "cfg_scale": st.sampled_from([0.0, 0.0, 1.5]),
        "top_p": st.sampled_from([None, None, 0.8]),
        "top_k": st.sampled_from([None, None, 7]),
    }
)


@pytest.fixture(params=["llada", "dream"])
def network(request: pytest.FixtureRequest, model: Transformer, dream: Transformer) -> Transformer:
    return model if request.param == "llada" else dream


def test_every_decoder_is_tried() -> None:
    assert {spec.partition(":")[0] for spec in DECODERS} == set(known_decoders())


@pytest.mark.parametrize("cache", CACHES)
@settings(max_examples=7)
@given(prompts=PROMPTS, schedule=SCHEDULES, options=OPTIONS)
def test_company_changes_nothing(
    cache: str, network: Transformer, prompts: list[list[int]], schedule: tuple[int, int, int], options: dict[str, Any]
) -> None:
    """Ragged prompts: each alone is as in the batch, in tokens, in when they were fixed and in rows computed. And
    nothing is fixed from a row that was not computed at that step."""
    seeds = [7 * n for n in range(len(prompts))]
    together, ticks = start_and_play(network, prompts, *schedule, cache=cache, seeds=seeds, **options)
    each = 2 if options["cfg_scale"] else 1  # with its unconditional row after it
    for number, prompt in enumerate(prompts):
        row, seed = number * each, seeds[number]
        alone, mine = start_and_play(network, [prompt], *schedule, cache=cache, seeds=[seed], **options)
        width = alone.canvas.tokens.shape[1]
        assert together.canvas.tokens[row, :width].equal(alone.canvas.tokens[0])
        assert together.canvas.committed_at[row, :width].equal(alone.canvas.committed_at[0])
        assert [tick.counts[row] for tick in ticks][: len(mine)] == [tick.counts[0] for tick in mine]
        assert not any(tick.counts[row] for tick in ticks[len(mine) :])
    assert not together.canvas.masked.any()
    for tick in ticks:
        own = (
            ~torch.zeros_like(tick.rows)
            if tick.step.canvas.is_unconditional is None
            else ~tick.step.canvas.is_unconditional[:, None]
        )
        assert not (rows_predicting(tick.committed, network.config.shift) & own & ~tick.rows).any()


def same(one: tuple[State, list[StepOutput]], other: tuple[State, list[StepOutput]], bitwise: bool) -> None:
    """The same tokens at the same steps; bitwise: and the same logits to the last bit."""
    assert one[0].canvas.tokens.equal(other[0].canvas.tokens)
    assert one[0].canvas.committed_at.equal(other[0].canvas.committed_at)
    for a, b in zip(one[1], other[1], strict=True):
        if bitwise and a.predictions is not None and b.predictions is not None:
            assert a.predictions.logits.equal(b.predictions.logits)


@pytest.mark.parametrize(
    ("cache", "equal", "bitwise"),
    [
        ("dllm-cache:kp=1,kr=1", "none", True),
        ("dllm-cache:kp=1,kr=1,first_layer=false,similarity=l2,rho=0", "none", True),
        ("dllm-cache:kp=1,kr=100,rho=1", "none", False),
        ("dllm-cache:kp=1,kr=3,rho=1,first_layer=false", "none", False),
        ("dllm-cache:kp=4,kr=1", "dllm-cache:kp=4,kr=100,rho=1", False),
        ("dkv-pd:refresh=1", "dkv-prefill", True),
        ("dkv-pd:refresh=1,shift=un", "dkv-prefill", True),
        ("dkv-decode:refresh=1,shift=un", "none", True),
        ("dkv-greedy:refresh=1", "none", True),
    ],
)
@settings(max_examples=6)
@given(prompts=PROMPTS, schedule=SCHEDULES, options=OPTIONS)
def test_identities(
    cache: str,
    equal: str,
    bitwise: bool,
    network: Transformer,
    prompts: list[list[int]],
    schedule: tuple[int, int, int],
    options: dict[str, Any],
) -> None:
    one = start_and_play(network, prompts, *schedule, cache=cache, **options)
    same(one, start_and_play(network, prompts, *schedule, cache=equal, **options), bitwise)


@pytest.mark.parametrize("cache", ["none", "dkv-decode:refresh=4", "dllm-cache:kp=5,kr=3,rho=0.4", "fast-dual"])
@settings(max_examples=6)
@given(prompts=PROMPTS, blocks=st.sampled_from([6, 3, 2]))
def test_a_threshold_that_nothing_passes_is_the_confidence_rule(
    cache: str, blocks: int, network: Transformer, prompts: list[list[int]]
) -> None:
    """At one token a step."""
    one = start_and_play(network, prompts, 6, blocks, cache=cache, decoder="threshold:tau=1")
    same(one, start_and_play(network, prompts, 6, blocks, cache=cache, decoder="confidence"), True)
