"""What a request gets alone, by a run that knows no engine."""

from __future__ import annotations

import dkv
from dkv.core.dtypes import named_dtype
from dkv.core.packing import exact
from dkv.lab.common.batch_run import Run
from dkv.outputs import Generation

__all__ = ["alone", "ended", "finished", "same"]


def alone(lm: dkv.DiffusionLM, request: dkv.Request) -> Generation:
    """The request as the only sequence of a batch of its own."""
    settings = request.settings
    dtype = None if settings.cache_dtype is None else named_dtype("cache_dtype", settings.cache_dtype)
    run = Run(
        lm.model,
        lm.tokenizer,
        [request.prompt],
        [request.seed],
        settings,
        cache_dtype=dtype,
        bucket=exact,
        version="",
        trace=request.trace,
        first_request=request.number,
        given=[request.given] if request.given else (),
    )
    for _ in run.ticks():
        pass
    return run.results()[0]


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
