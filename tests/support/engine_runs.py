"""Requests of many kinds, and what each gets alone, by a run that knows no engine."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import torch

import dkv
from dkv.core.canvas import SequenceState, lay_out
from dkv.core.dtypes import named_dtype
from dkv.core.guidance import Guidance
from dkv.core.logits_processors import logits_processors_of
from dkv.core.loop import Schedule, State, StepOutput, advance, finish
from dkv.core.sampling import Sampling
from dkv.engine.sequence import Sequence
from dkv.outputs import Generation
from tests.support.runs import POLICIES

__all__ = ["alone", "ended", "finished", "mixed_request", "same"]


def alone(lm: dkv.DiffusionLM, request: dkv.Request) -> Generation:
    """The request as the only sequence of the core's loop."""
    settings = request.settings
    sequence = Sequence(0, request, lm.model.config, lm.tokenizer, settings.cache, settings.decoder)
    state = alone_state(lm, sequence)
    while (output := advance(state)) is not None:
        sequence.count(output.counts[0], sum(output.work), sum(output.lengths))
        watch(state, output, sequence)
    return sequence.result(state.canvas.tokens[0, sequence.response].tolist())


def alone_state(lm: dkv.DiffusionLM, sequence: Sequence) -> State:
    """The request's policy and decoder themselves, without what the engine puts around them."""
    request, settings, config = sequence.request, sequence.settings, lm.model.config
    guided = settings.cfg_scale > 0
    dtype = None if settings.cache_dtype is None else named_dtype("cache_dtype", settings.cache_dtype)
    given = [request.given] if request.given else []
    canvas = lay_out(
        [request.prompt], settings.gen_length, config.mask_id, [request.seed], "cpu", request.number, guided, given
    )
    batch, width = canvas.tokens.shape

    def each(value: float) -> torch.Tensor:
        return torch.full((batch,), value)

    return State(
        model=lm.model,
        sequences=SequenceState.new(canvas, settings.decoder.commit_order(canvas)),
        memory=lm.model.new_kv_cache(batch, width, dtype),
        policy=settings.cache,
        decoder=settings.decoder,
        sampling=Sampling(
            each(float(settings.temperature)),
            None if settings.top_p in (None, 1) else each(settings.top_p or 0.0),
            None if settings.top_k is None else each(settings.top_k),
            greedy=settings.temperature == 0,
        ),
        schedule=Schedule(
            each(settings.block_length),
            each(settings.blocks),
            each(settings.steps // settings.blocks),
            adaptive=each(True) if given else None,
            grows=each(True) if settings.grow else None,
        ),
        stop_ids=sequence.stop_ids if settings.stop_at_eos else (),
        logits_processors=logits_processors_of([settings] * batch, canvas.prompt, sequence.stop_ids),
        guidance=Guidance(canvas, settings.cfg_scale) if guided else None,
    )


def watch(state: State, output: StepOutput, sequence: Sequence) -> None:
    """Keep what a step committed, and end a sequence whose final text holds a stop text."""
    canvas = state.canvas
    if sequence.request.trace:
        sequence.add_step(output.committed[0].nonzero().view(-1).tolist(), canvas.tokens[0])
    known = sequence.settled(canvas.tokens[0].tolist(), canvas.unfixed[0].tolist())
    if sequence.text.find_stop(known) is not None:
        finish(state, ~state.sequences.done)


def same(one: Generation, other: Generation) -> bool:
    """Whether two results agree in all but the time that they took."""
    return (
        one.token_ids == other.token_ids
        and one.text == other.text
        and one.finish_reason == other.finish_reason
        and one.trace == other.trace
        and one.stats.forwards == other.stats.forwards
        and one.stats.rows_computed == other.stats.rows_computed
        and one.stats.rows_total == other.stats.rows_total
        and one.stats.new_tokens == other.stats.new_tokens
    )


def finished(engine: dkv.Engine) -> dict[int, Generation]:
    """Step to the end; the results by ticket. Fails where one is told twice."""
    results: dict[int, Generation] = {}
    while updates := engine.step():
        for update in updates:
            if update.generation is not None:
                assert update.request_id not in results
                results[update.request_id] = update.generation
    return results


def ended(engine: dkv.Engine) -> tuple[dict[int, Exception], dict[int, Generation]]:
    """Step to the end; the errors and the results by ticket. Fails where anything is told of one after its end, or is
    held afterwards."""
    errors: dict[int, Exception] = {}
    results: dict[int, Generation] = {}
    while updates := engine.step():
        for update in updates:
            assert update.request_id not in errors
            assert update.request_id not in results
            if update.error is not None:
                errors[update.request_id] = update.error
            if update.generation is not None:
                results[update.request_id] = update.generation
    status = engine.status()
    assert (status.active, status.waiting, status.memory_used) == (0, 0, 0)
    assert status.requests_failed == len(errors)
    assert status.requests_finished == len(results)
    return errors, results


def mixed_request(lm: dkv.DiffusionLM, rng: random.Random, number: int, **options: Any) -> dkv.Request:
    """A request of 8 positions with some prompt, cache, decoder, temperature and guidance, and these options."""
    request = lm.request(
        [rng.randrange(200) for _ in range(rng.randint(1, 9))],
        gen_length=8,
        block_length=rng.choice([4, 8]),
        temperature=rng.choice([0.0, 0.9]),
        seed=number,
        cache=rng.choice(POLICIES),
        decoder=rng.choice(["confidence", "random", "threshold:tau=0.2", "maskgit-plus"]),
        cfg_scale=rng.choice([0.0, 0.0, 0.7]),
        **options,
    )
    return replace(request, number=number)
