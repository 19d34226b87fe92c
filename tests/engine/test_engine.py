"""Requests that come and go: each gets what it gets alone, and nothing of them is left behind."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dkv
from dkv.caches.dllm_cache import DllmCache
from dkv.core.layer_rules import Rules
from dkv.core.policy import Plan, Step
from dkv.decoders import RandomOrder
from tests.support.engine_runs import alone, ended, finished, same
from tests.support.runs import POLICIES

SHAPES = [(8, 8, 8), (8, 4, 8), (8, 4, 4), (9, 3, 12), (3, 3, 3)]
DECODERS = [
    "confidence",
    "random",
    "threshold:tau=0.2",
    "factor",
    "entropy",
    "credit:tau=0.02,alpha=3",
]


def drawn(lm: dkv.DiffusionLM, rng: random.Random) -> dkv.Request:
    """A request like no other."""
    gen, block, steps = rng.choice(SHAPES)
    sampled = rng.random() < 0.4
    request = lm.request(
        [rng.randrange(200) for _ in range(rng.choice([*range(1, 13), 70]))],
        gen_length=gen,
        block_length=block,
        steps=steps,
        temperature=0.7 if sampled else 0.0,
        top_p=rng.choice([None, 0.8, 1.0]) if sampled else None,
        top_k=rng.choice([None, 5]) if sampled else None,
        cfg_scale=rng.choice([0.0, 0.0, 0.0, 0.8]),
        seed=rng.randrange(1000),
        cache=rng.choice([*POLICIES, "dllm-cache:kp=4,kr=3,rho=0.5,cfg_interval=2"]),
        decoder=rng.choice(DECODERS),
        stop_at_eos=rng.random() < 0.7,
        cache_dtype=rng.choice([None, None, "bfloat16"]),
        trace=rng.random() < 0.3,
    )
    return replace(request, number=rng.randrange(5), deltas=rng.random() < 0.7)


@pytest.mark.parametrize("memory", [None, 400_000], ids=["unlimited", "limited"])
@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_company_and_arrival_change_nothing(memory: int | None, lm: dkv.DiffusionLM, seed: int) -> None:
    """Unlike requests join between random steps, some are cancelled on the way; every other one is as alone."""
    rng = random.Random(seed)
    engine = dkv.Engine(lm, memory=memory, active=rng.choice([1, 3, 8]))
    requests: dict[int, dkv.Request] = {}
    ids: dict[int, tuple[int, ...]] = {}
    texts: dict[int, str] = {}
    results: dict[int, dkv.Generation] = {}
    gone: set[int] = set()
    to_come = [drawn(lm, rng) for _ in range(9)]
    while to_come or len(results) + len(gone) < len(requests):
        for _ in range(rng.randint(0, 3)):
            if to_come:
                request = to_come.pop()
                requests[engine.add(request)] = request
        open_tickets = sorted(set(requests) - set(results) - gone)
        if open_tickets and rng.random() < 0.08:
            leaving = rng.choice(open_tickets)
            assert engine.cancel(leaving)
            gone.add(leaving)
        for update in engine.step():
            assert update.request_id not in gone
            ids[update.request_id] = ids.get(update.request_id, ()) + update.ids
            texts[update.request_id] = texts.get(update.request_id, "") + update.text
            if update.generation is not None:
                assert update.request_id not in results
                results[update.request_id] = update.generation
        if memory is not None:
            assert engine.status().memory_used <= memory
    assert set(results) == set(requests) - gone
    for ticket, result in results.items():
        assert same(result, alone(lm, requests[ticket])), requests[ticket]
        assert texts[ticket] == result.text
        known = result.token_ids
        assert list(ids[ticket]) == known[: len(ids[ticket])]
        assert len(ids[ticket]) == next((n for n, token in enumerate(known) if token in ends(lm)), len(known))
    status = engine.status()
    assert (status.active, status.waiting, status.memory_used) == (0, 0, 0)
    assert (status.requests_started, status.requests_finished) == (len(requests), len(results))
    assert status.requests_cancelled == len(gone)
    assert status.tokens == sum(result.stats.new_tokens for result in results.values())
    assert status.rows_computed == pytest.approx(sum(result.stats.rows_computed for result in results.values()))


def ends(lm: dkv.DiffusionLM) -> tuple[int, ...]:
    assert lm.tokenizer is not None
    return (*lm.model.config.eos_ids, *lm.tokenizer.turn_end_ids)


def test_unlike_policies_share_a_forward(lm: dkv.DiffusionLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense policies make one forward a step together, and V-verify of whatever intervals another."""
    engine, forwards = dkv.Engine(lm), 0
    forward = type(lm.model).forward

    def counted(*args: Any) -> torch.Tensor:
        nonlocal forwards
        forwards += 1
        return forward(*args)

    monkeypatch.setattr(type(lm.model), "forward", counted)
    for cache in ("none", "dkv-decode", "dkv-prefill", "fast-dual", "dllm-cache:kp=4,kr=3", "dllm-cache:kp=9,rho=0.7"):
        engine.add(lm.request([1, 2, 3], gen_length=6, cache=cache, stop_at_eos=False))
    engine.step()
    assert forwards == 2


def test_a_finished_request_makes_room_at_once(lm: dkv.DiffusionLM) -> None:
    engine = dkv.Engine(lm, active=1)
    short, long = (lm.request([1], gen_length=n, stop_at_eos=False, cache="none") for n in (2, 4))
    first, second = engine.add(short), engine.add(long)
    done = [[u.request_id for u in engine.step() if u.generation] for _ in range(6)]
    assert done == [[], [first], [], [], [], [second]]
    assert engine.step() == []


def test_cancelling_frees_the_place_at_once(lm: dkv.DiffusionLM) -> None:
    engine = dkv.Engine(lm, active=2)
    tickets = [engine.add(lm.request([n], gen_length=6, stop_at_eos=False)) for n in range(4)]
    engine.step()
    assert (engine.status().active, engine.status().waiting) == (2, 2)
    assert engine.cancel(tickets[0])  # under way
    assert engine.cancel(tickets[2])  # waiting
    assert not engine.cancel(tickets[0])
    assert (engine.status().active, engine.status().waiting) == (1, 1)
    assert set(finished(engine)) == {tickets[1], tickets[3]}


def test_a_full_queue_refuses(lm: dkv.DiffusionLM) -> None:
    engine = dkv.Engine(lm, active=1, waiting=2)
    engine.add(lm.request([1], gen_length=4))
    engine.add(lm.request([1], gen_length=4))
    with pytest.raises(dkv.BusyError, match="2 requests are waiting"):
        engine.add(lm.request([1], gen_length=4))
    engine.step()
    engine.add(lm.request([1], gen_length=4))
    assert len(finished(engine)) == 3


def test_what_could_never_fit_is_refused(lm: dkv.DiffusionLM) -> None:
    engine = dkv.Engine(lm, memory=1000)
    with pytest.raises(dkv.SettingError, match=r"memory=1000 bytes cannot hold the cache of 9 positions"):
        engine.add(lm.request([1], gen_length=8))
    assert engine.status().requests_started == 0


def test_a_little_memory_serves_one_after_another(lm: dkv.DiffusionLM) -> None:
    """Requests that fit singly wait for each other, in their order."""
    c = lm.model.config
    one = 2 * c.layers * c.kv_heads * 65 * c.head_dim * 4
    engine = dkv.Engine(lm, memory=int(one * 1.5))
    tickets = [engine.add(lm.request([n], gen_length=4, stop_at_eos=False, cache="none")) for n in range(3)]
    engine.step()
    assert (engine.status().active, engine.status().memory_used) == (1, one)
    assert list(finished(engine)) == tickets


def test_a_short_request_does_not_hold_a_long_slot(lm: dkv.DiffusionLM) -> None:
    c = lm.model.config
    row = 2 * c.layers * c.kv_heads * c.head_dim * 4
    engine = dkv.Engine(lm, memory=1 << 30)
    engine.add(lm.request([1] * 80, gen_length=10, stop_at_eos=False, cache="none"))
    engine.add(lm.request([1], gen_length=4, stop_at_eos=False, cache="none"))
    engine.step()
    assert engine.status().memory_used == row * (129 + 65)


def test_slots_left_by_others_are_never_read(lm: dkv.DiffusionLM) -> None:
    """With what a departed sequence left poisoned, its successor's tokens are the same: the audit looks on."""
    engine = dkv.Engine(lm)
    stays = engine.add(lm.request([5, 6], gen_length=8, stop_at_eos=False, cache="dkv-decode"))
    goes = engine.add(lm.request([9] * 12, gen_length=8, stop_at_eos=False, cache="dkv-decode"))
    engine.step()
    engine.cancel(goes)
    (batch,) = engine.batches.values()
    assert batch.buffers.memory is not None
    with torch.inference_mode():
        for layer in batch.buffers.memory.layers:
            for buffer in layer.buffers.values():
                buffer[1:] = 1e4
                buffer[:, :, 11:] = 1e4
    request = lm.request([7] * 5, gen_length=8, seed=3, cache="dkv-decode")
    comes = engine.add(request)
    results = finished(engine)
    assert same(results[comes], alone(lm, request))
    assert stays in results


def test_an_order_given_ahead_is_each_requests_own(lm: dkv.DiffusionLM) -> None:
    order = [[[2, 3, 4, 5], [5, 4, 3, 2]]]
    results = lm.generate(
        [[1, 2], [3, 4]], gen_length=4, decoder=RandomOrder(order), cache="none", trace=True, stop_at_eos=False
    )
    assert [[p for step in r.trace or [] for p, _ in step] for r in results] == [[0, 1, 2, 3], [3, 2, 1, 0]]


def test_frames_show_each_step(lm: dkv.DiffusionLM) -> None:
    engine = dkv.Engine(lm)
    engine.add(lm.request([1, 2], gen_length=4, cache="dkv-decode", frames=True, stop_at_eos=False))
    engine.add(lm.request([3], gen_length=4, cache="none", stop_at_eos=False))
    frames = [u.frame for _ in range(4) for u in engine.step() if u.request_id == 0]
    assert [sum(f.committed) for f in frames if f] == [1, 2, 3, 4]
    assert next(f.prompt_computed for f in frames if f) == 2


class Fickle:
    """A policy whose rules change on the way."""

    def plan(self, step: Step) -> Plan:
        odd = bool((step.num_forwards % 2).any())
        return Plan(step.canvas.live, rules=Rules(first=None, rest=None if odd else DllmCache().rules.rest))


def test_a_policy_that_changes_its_rules_cannot_share(lm: dkv.DiffusionLM) -> None:
    """It is dropped when it does; who shared with it goes on."""
    engine = dkv.Engine(lm)
    other = lm.request([1], gen_length=4, cache="none", stop_at_eos=False)
    engine.add(other)
    engine.add(lm.request([1], gen_length=4, cache=Fickle(), stop_at_eos=False))
    errors, results = ended(engine)
    assert isinstance(errors[1], dkv.EngineError)
    assert "changed its layer rules" in str(errors[1])
    assert same(results[0], alone(lm, other))


@pytest.mark.parametrize("name", ["active", "waiting", "memory"])
def test_bad_limits(name: str, lm: dkv.DiffusionLM) -> None:
    with pytest.raises(dkv.SettingError, match=f"{name}=0 must be a whole number of at least 1"):
        dkv.Engine(lm, **{name: 0})


def test_text_is_told_only_when_final(lm: dkv.DiffusionLM) -> None:
    """No stop text, and no beginning of one, is ever told."""
    rng = random.Random(4)
    for _ in range(30):
        prompt, seed = [rng.randrange(200) for _ in range(3)], rng.randrange(99)
        plain = lm.generate([prompt], gen_length=8, temperature=1.0, seed=seed, stop_at_eos=False)[0].text or ""
        if len(plain) < 4:
            continue
        cut = rng.randrange(1, len(plain) - 1)
        request = lm.request(
            prompt, gen_length=8, temperature=1.0, seed=seed, stop=plain[cut : cut + 2], stop_at_eos=False
        )
        engine, told = dkv.Engine(lm), ""
        engine.add(request)
        while updates := engine.step():
            for update in updates:
                told += update.text
                if update.generation is not None:
                    assert told == update.generation.text
                    assert same(update.generation, alone(lm, request))
        assert plain[cut : cut + 2] not in told
