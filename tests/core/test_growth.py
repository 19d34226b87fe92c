"""A canvas that grows by blocks until the end of the text."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

import dkv
from dkv.caches import make_cache
from dkv.core.loop import Schedule
from dkv.decoders import RandomOrder
from dkv.models import Transformer
from tests.support.checkpoints import EOS, MASK, VOCAB
from tests.support.engine_runs import alone, finished, same
from tests.support.runs import DEGENERATE, POLICIES, Scripted, play, start

DECODERS = [
    "confidence",
    "random",
    "threshold:tau=0.2",
    "factor",
    "entropy",
    "credit:tau=0.02,alpha=3",
]


@pytest.mark.parametrize("cache", POLICIES)
def test_a_text_that_ends_in_the_first_block_is_that_of_one_block(cache: str, ending: dkv.DiffusionLM) -> None:
    prompts = [[n] for n in range(12)]
    short = ending.generate(prompts, gen_length=4, cache=cache, seed=0, trace=True)
    grown = ending.generate(prompts, gen_length=12, block_length=4, cache=cache, seed=0, trace=True, grow=True)
    ended = 0
    for one, other in zip(short, grown, strict=True):
        assert (other.trace or [])[:4] == one.trace
        if one.finish_reason == "stop":
            ended += 1
            assert (one.text, one.trace, one.finish_reason) == (other.text, other.trace, other.finish_reason)
            assert one.stats.rows_computed == other.stats.rows_computed
            assert (one.stats.forwards, one.stats.rows_total) == (other.stats.forwards, other.stats.rows_total)
            assert other.token_ids == one.token_ids + [EOS] * 8
    assert 0 < ended < 12


@pytest.mark.parametrize("decoder", ["confidence", "threshold:tau=0.05", "random"])
def test_without_a_cache_it_is_one_run_after_another(decoder: str, ending: dkv.DiffusionLM) -> None:
    """Each block is what a run of its own makes of all before it as its prompt."""
    for n in range(6):
        whole = ending.generate(
            [[n, 3]], gen_length=12, block_length=4, cache="none", decoder=decoder, seed=4, grow=True
        )[0]
        prompt, forwards, rows, ids = [n, 3], 0, 0.0, list[int]()
        while len(ids) < 12:
            part = ending.generate([prompt], gen_length=4, cache="none", decoder=decoder, seed=4)[0]
            prompt, ids = prompt + part.token_ids, ids + part.token_ids
            forwards, rows = forwards + part.stats.forwards, rows + part.stats.rows_computed
            if part.finish_reason == "stop":
                break
        assert whole.token_ids == ids + [EOS] * (12 - len(ids))
        assert (whole.stats.forwards, whole.stats.rows_computed, whole.stats.rows_total) == (forwards, rows, rows)


def test_company_changes_nothing(ending: dkv.DiffusionLM) -> None:
    """Growing canvases among others, every policy, guided and not, under audit."""
    rng = random.Random(3)
    requests = []
    for n in range(40):
        gen, block = rng.choice([(8, 4), (12, 4), (9, 3), (6, 6), (8, 2)])
        request = ending.request(
            [rng.randrange(200) for _ in range(rng.randint(1, 9))],
            gen_length=gen,
            block_length=block,
            temperature=rng.choice([0.0, 0.8]),
            cfg_scale=rng.choice([0.0, 0.0, 0.7]),
            seed=n,
            cache=rng.choice([*POLICIES, "dllm-cache:kp=4,kr=30,rho=0,cfg_interval=9"]),
            decoder=rng.choice(DECODERS),
            stop_at_eos=rng.random() < 0.8,
            stop=rng.choice([None, "a"]),
            trace=rng.random() < 0.5,
            grow=rng.random() < 0.7,
        )
        requests.append(replace(request, number=n % 3))
    engine, tickets, told = dkv.Engine(ending, active=7), dict[int, dkv.Request](), dict[int, str]()
    for request in requests:
        tickets[engine.add(request)] = request
    seen = 0
    while updates := engine.step():
        for update in updates:
            told[update.request_id] = told.get(update.request_id, "") + update.text
            if update.generation is not None:
                seen += 1
                result, request = update.generation, tickets[update.request_id]
                assert same(result, alone(ending, request)), request
                assert told[update.request_id] == result.text
                assert len(result.token_ids) == request.settings.gen_length
                assert MASK not in result.token_ids
    assert seen == 40
    assert engine.status().memory_used == 0


@pytest.mark.parametrize(("cached", "plain"), DEGENERATE)
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_degenerate_settings_are_exact(
    cached: str, plain: str, family: str, ending: dkv.DiffusionLM, dream: Transformer
) -> None:
    lm = ending if family == "llada" else dkv.DiffusionLM(dream, None, audit=True)
    for prompt in ([1], [2, 3, 4], [7] * 6):
        one, other = (
            lm.generate([prompt], gen_length=8, block_length=4, cache=cache, grow=True, trace=True)[0]
            for cache in (cached, plain)
        )
        assert (one.token_ids, one.trace) == (other.token_ids, other.trace)


@pytest.mark.parametrize("cache", POLICIES)
def test_dream_grows_too(cache: str, dream: Transformer) -> None:
    lm = dkv.DiffusionLM(dream, None, audit=True)
    (result,) = lm.generate([[4, 5]], gen_length=9, block_length=3, cache=cache, grow=True, stop_at_eos=False)
    assert MASK not in result.token_ids
    assert result.stats.forwards == 9
    assert result.stats.rows_total == 3 * (5 + 8 + 11)


@pytest.mark.parametrize(("rho", "first"), [("0", "true"), ("0.3", "false")])
def test_what_is_new_is_computed_whatever_the_policy_says(rho: str, first: str, model: Transformer) -> None:
    """No refresh is due at the second block, yet every layer computes its positions, and only then."""
    cache = make_cache(f"dllm-cache:kp=90,kr=90,rho={rho},first_layer={first}")
    state = start(model, [[1, 2]], 8, 4, cache=cache)
    length, blocks, steps = (torch.tensor([n]) for n in (4, 2, 4))
    state.schedule = Schedule(length, blocks, steps, grows=torch.tensor([True]))
    state.reach()
    state.ragged = True
    ticks = play(state)
    budgets = [int(4 * float(rho)), int(8 * float(rho))]
    assert [tick.lengths for tick in ticks] == [[6]] * 4 + [[10]] * 4
    assert [tick.counts[0] for tick in ticks] == [6, 4, 4, 4, 8, 8, 8, 8]
    assert [tick.picked[0] for tick in ticks] == [6, *[budgets[0]] * 3, 4 + budgets[1], *[budgets[1]] * 3]


def test_the_length_is_a_bound_and_not_a_cost(model: Transformer) -> None:
    """A text of five tokens on a canvas of 64: two blocks of four are ever computed."""
    table = torch.zeros(65, VOCAB)
    for place in range(1, 65):
        table[place, 7 if place < 6 else EOS] = 9.0 - place / 100
    lm = dkv.DiffusionLM(Scripted.like(model, table), None, audit=True)
    (grown,) = lm.generate([[1]], gen_length=64, block_length=4, cache="none", grow=True)
    (whole,) = lm.generate([[1]], gen_length=64, block_length=4, cache="none")
    assert grown.token_ids == whole.token_ids == [7] * 5 + [EOS] * 59
    assert grown.stats.forwards == whole.stats.forwards == 6
    assert grown.stats.rows_computed == 4 * 5 + 2 * 9
    assert whole.stats.rows_computed == 6 * 65


def test_frames_show_what_is_there(ending: dkv.DiffusionLM) -> None:
    frames = list(ending.stream([5, 6], gen_length=8, block_length=4, grow=True, stop_at_eos=False, cache="none"))
    assert [sum(frame.committed) for frame in frames] == list(range(1, 9))
    assert [sum(frame.computed) for frame in frames] == [4] * 4 + [8] * 4
    assert all(frame.token_ids[4:] == [MASK] * 4 for frame in frames[:4])


def test_an_order_given_ahead_is_of_the_whole(ending: dkv.DiffusionLM) -> None:
    order = RandomOrder([[[2, 1]], [[3, 4]]])
    (result,) = ending.generate(
        [[1]], gen_length=4, block_length=2, decoder=order, grow=True, stop_at_eos=False, trace=True
    )
    assert [place for step in result.trace or [] for place, _ in step] == [1, 0, 2, 3]


def test_memory_is_that_of_the_bound(ending: dkv.DiffusionLM) -> None:
    used = []
    for grow in (False, True):
        engine = dkv.Engine(ending)
        engine.add(ending.request([1], gen_length=8, block_length=4, grow=grow))
        engine.step()
        used.append(engine.status().memory_used)
        finished(engine)
    assert used[0] == used[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grow": True}, "grow=True needs block_length"),
        ({"grow": 1, "block_length": 4}, "grow=1 must be True or False"),
        ({"grow": True, "block_length": 3}, "gen_length=8 must be a multiple of block_length=3"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str, bare_lm: dkv.DiffusionLM) -> None:
    with pytest.raises(dkv.SettingError, match=message):
        bare_lm.generate([[1, 2]], gen_length=8, **arguments)
