"""A step waits for the device once: to learn the row counts, and who is finished. Through the engine a second time,
where a request streams its tokens or has stop texts, which the host must look at.

But dkv-greedy with a window, which waits a second time: its walk has as many turns as positions are decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import dkv
from dkv.core.loop import advance
from dkv.decoders import make_decoder
from dkv.models import Transformer
from tests.support.runs import POLICIES, start
from tests.support.syncs import Syncs

RAGGED = [[3, 4, 5], [9] * 20, [8, 1]]
DECODERS = ("confidence", "random", "threshold:tau=0.9", "factor", "entropy-bound", "local-leap", "credit")
DREAMS = ("entropy", "maskgit-plus", "topk-margin", "origin")


def syncs_of(model: Transformer, **options: object) -> list[list[str]]:
    """What each step of a run waits for."""
    state, found = start(model, RAGGED, 8, 4, 6, audit=False, **options), list[list[str]]()  # type: ignore[arg-type]
    while True:
        with Syncs() as syncs:
            tick = advance(state)
        found.append(syncs.found)
        if tick is None:
            return found


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("cache", POLICIES)
def test_a_step_waits_once_under_every_cache(model: Transformer, cache: str, guided: bool) -> None:
    found = syncs_of(model, cache=cache, cfg_scale=1.0 if guided else 0.0)
    waits = ["__int__", "tolist"] if cache.startswith("dkv-greedy") else ["tolist"]
    assert len(found) > 3
    assert [step for step in found if step != waits] == []


def test_greedy_without_a_window_waits_once(model: Transformer) -> None:
    found = syncs_of(model, cache="dkv-greedy:refresh=3,window=0")
    assert [step for step in found if step != ["tolist"]] == []


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_step_waits_once_under_every_decoder(model: Transformer, decoder: str) -> None:
    assert [step for step in syncs_of(model, decoder=decoder, stop_ids=(257,)) if step != ["tolist"]] == []


@pytest.mark.parametrize("decoder", DREAMS)
def test_a_step_waits_once_under_dreams_rules(dream: Transformer, decoder: str) -> None:
    found = syncs_of(dream, decoder=make_decoder(decoder), cache="dkv-decode")
    assert [step for step in found if step != ["tolist"]] == []


def test_a_step_waits_once_where_it_samples(model: Transformer) -> None:
    assert [step for step in syncs_of(model, temperature=0.7, top_p=0.9, top_k=20) if step != ["tolist"]] == []


def engine_syncs(lm: dkv.DiffusionLM, *requests: dkv.Request) -> list[list[str]]:
    """What each step of an engine waits for, from the first to the last at which nobody comes or goes."""
    lm = copy(lm)
    lm.audit = False  # which waits for what it finds
    engine, found = dkv.Engine(lm), list[list[str]]()
    for request in requests:
        engine.add(request)
    while True:
        with Syncs() as syncs:
            updates = engine.step()
        if any(update.last for update in updates):
            return found[1:]
        found.append(syncs.found)


def request(lm: dkv.DiffusionLM, cache: str, deltas: bool, cfg_scale: float = 0.0, stop: str | None = None) -> Any:
    asked = lm.request(
        [1] * 5, gen_length=8, block_length=4, cache=cache, cfg_scale=cfg_scale, stop=stop, stop_at_eos=False
    )
    return replace(asked, deltas=deltas)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("cache", [name for name in POLICIES if not name.startswith("dkv-greedy")])
def test_a_step_of_the_engine_waits_once(lm: dkv.DiffusionLM, cache: str, guided: bool) -> None:
    found = engine_syncs(lm, *(request(lm, cache, False, float(guided)) for _ in range(2)))
    assert len(found) > 3
    assert [step for step in found if step != ["tolist"]] == []


@pytest.mark.parametrize(("deltas", "stop"), [(True, None), (False, "never said"), (True, "never said")])
def test_a_step_of_the_engine_waits_twice_where_tokens_are_watched(
    lm: dkv.DiffusionLM, deltas: bool, stop: str | None
) -> None:
    quiet, watched = request(lm, "dkv-decode", False), request(lm, "dkv-decode", deltas, stop=stop)
    for requests in ([watched], [quiet, watched]):
        found = engine_syncs(lm, *requests)
        assert len(found) > 3
        assert [step for step in found if step != ["tolist", "tolist"]] == []


def test_unlike_requests_in_one_batch_wait_once(lm: dkv.DiffusionLM) -> None:
    caches = ("none", "dkv-decode", "dkv-prefill", "fast-dual", "dkv-fill:rows=5")
    found = engine_syncs(lm, *(request(lm, cache, False) for cache in caches))
    assert [step for step in found if step != ["tolist"]] == []


ONES = torch.ones(3)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[0].item(),
        lambda x: bool(x[0]),
        lambda x: int(x[0]),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.where(x > 0),
        lambda x: x.masked_select(x > 0),
        lambda x: torch.repeat_interleave(x, x.long()),
        lambda x: x.unique(),
        lambda x: torch.tensor([1, 2], device=x.device),
    ],
)
def test_what_waits_is_found(wait: Callable[[Tensor], object]) -> None:
    with Syncs() as syncs:
        wait(ONES)
    assert syncs.found


def test_what_does_not_wait_is_not_found() -> None:
    index = torch.tensor([0, 2])
    with Syncs() as syncs:
        taken = ONES.clone()
        taken[index] = ONES[index] * 2
        torch.where(taken > 1, taken, 0)
        torch.nonzero_static(taken, size=3)
        torch.repeat_interleave(index, index, output_size=2)
    assert not syncs.found
