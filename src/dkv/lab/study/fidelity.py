"""How faithful a cache is to no cache, on prompts of the embedded tasks: free, and held to the canvas of no cache.

Free: each generates for itself, and the texts are compared. Held (teacher-forced): after each step the cache's canvas
is made that of no cache, so that at every step both name a candidate for the same positions of the same canvas, and
what is counted is the candidates that differ; errors cannot pile up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dkv.caches import make_cache
from dkv.lab.bench.runners import Denoising
from dkv.lab.common.engine_batch import batch_of
from dkv.lab.eval.questions import Turns
from dkv.lab.study.runs import ids_of, settings_for
from dkv.lab.study.side_by_side import Lockstep, Prompts
from dkv.lm import DiffusionLM
from dkv.outputs import Generation
from dkv.params import ResolvedParams
from dkv.tiny import Example, load_eval

__all__ = ["Held", "examples_of", "follow", "free", "one_run"]


@dataclass(frozen=True)
class Held:
    """Candidates that differ from those of no cache, of those that were compared."""

    differ: int
    compared: int


def examples_of(lm: DiffusionLM, task: str, least: int, count: int) -> list[Example]:
    """The first `count` of a task's examples whose prompts have `least` tokens and fit the model, shortest first."""
    sized = sorted((len(_ids(lm, e.asked)), number, e) for number, e in enumerate(load_eval(task)))
    context = lm.model.config.context
    return [e for size, _, e in sized if size >= least and size + e.gen_length <= context][:count]


def one_run(
    lm: DiffusionLM, prompt: str | Turns | list[int], gen: int, cache: str, cache_dtype: str | None = None
) -> Denoising:
    """One prompt (a text, a conversation, or a list of ids) under a cache, its canvas filled. cache_dtype: of keys,
    values and features, None = the model's."""
    ids = prompt if isinstance(prompt, list) else _ids(lm, prompt)
    settings = replace(_settings(lm, gen, cache), cache_dtype=cache_dtype)
    return Denoising(batch_of(lm, [ids], settings), lm.model.config.layers)


def free(lm: DiffusionLM, prompt: str | Turns, gen: int, cache: str, cache_dtype: str | None = None) -> Generation:
    """What a cache generates for itself."""
    run = one_run(lm, prompt, gen, cache, cache_dtype)
    while run.step():
        pass
    return run.outcome().generations[0]


def follow(lm: DiffusionLM, prompt: str | Turns, gen: int, caches: Sequence[str]) -> tuple[Generation, list[Held]]:
    """Run no cache, with every cache on its canvas beside it: what no cache generates, and what each cache would have
    said otherwise."""
    prompts = Prompts([_ids(lm, prompt)], [0], _settings(lm, gen, "none"))
    lockstep, totals = Lockstep(lm, prompts, [make_cache(cache) for cache in caches]), [[0, 0] for _ in caches]
    for step in lockstep.steps():
        if step.told.predictions is not None and step.own.predictions is not None:
            its, named = (read.spread(read.token, -1) for read in (step.told.predictions, step.own.predictions))
            both = (named >= 0) & (its >= 0)
            totals[step.number][0] += int((both & (named != its)).sum())
            totals[step.number][1] += int(both.sum())
    return lockstep.results()[0], [Held(*total) for total in totals]


def _ids(lm: DiffusionLM, prompt: str | Turns) -> list[int]:
    return ids_of(lm, [prompt])[0]


def _settings(lm: DiffusionLM, gen: int, cache: str) -> ResolvedParams:
    return settings_for(cache, gen, gen, lm.model.config.default_decoder)
