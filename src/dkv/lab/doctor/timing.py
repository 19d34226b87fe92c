"""Where the time of a step goes: a part that every step costs, and a part for each row that it computes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

import torch

from dkv.core.loop import StepOutput
from dkv.core.policy import CachePolicy
from dkv.lab.bench.measure import in_turn
from dkv.lab.bench.roofline import synchronize
from dkv.lab.study.side_by_side import Prompts, run_of
from dkv.lm import DiffusionLM

__all__ = ["Cost", "Steps", "cost_of", "time_steps"]

_REPEATS = 2


@dataclass(frozen=True)
class Steps:
    """The steps of a run, one by one."""

    rows: list[float]  # through the MLP, all sequences', averaged over layers
    seconds: list[float]  # the least of the repeats


@dataclass(frozen=True)
class Cost:
    """What steps cost."""

    fixed: float  # seconds that a step takes whatever it computes
    per_row: float  # seconds for each row more
    seconds: float  # of the cache's mean step
    rows: float
    none_seconds: float  # of no cache's
    none_rows: float
    steps: int  # of both, in the fit

    @property
    def overhead(self) -> float:
        """Share of the cache's step that is fixed."""
        return min(self.fixed / self.seconds, 1.0)

    @property
    def speedup(self) -> float:
        """Seconds of no cache over the cache's."""
        return self.none_seconds / self.seconds

    @property
    def allowed(self) -> float:
        """Rows of no cache over the cache's."""
        return self.none_rows / self.rows


def time_steps(lm: DiffusionLM, prompts: Prompts, policies: Sequence[CachePolicy]) -> list[Steps]:
    """Run all policies to the end of the canvas, a step of each in turn, twice; each step's least time counts."""
    full = replace(prompts, settings=replace(prompts.settings, stop_at_eos=False, stop=()))
    layers = lm.model.config.layers
    repeats = [_once(lm, full, policies) for _ in range(_REPEATS)]
    return [
        Steps(
            rows=[sum(tick_work) / layers for tick_work, _ in repeats[0][number]],
            seconds=[min(seconds) for seconds in zip(*([s for _, s in r[number]] for r in repeats), strict=True)],
        )
        for number in range(len(policies))
    ]


def _once(lm: DiffusionLM, prompts: Prompts, policies: Sequence[CachePolicy]) -> list[list[tuple[list[int], float]]]:
    """The work and the seconds of each step of each policy, taken in turn."""
    runs = [run_of(lm, prompts, policy).steps() for policy in policies]
    found: list[list[tuple[list[int], float]]] = [[] for _ in policies]
    in_turn([partial(_timed, ticks, mine, lm.model.device) for ticks, mine in zip(runs, found, strict=True)])
    return found


def _timed(ticks: Iterator[StepOutput], found: list[tuple[list[int], float]], device: torch.device) -> bool:
    """Take a step, and keep what it was if it computed anything; False where there was none left."""
    began = time.perf_counter()
    tick = next(ticks, None)
    synchronize(device)
    if tick is not None and any(tick.counts):
        found.append((tick.work, time.perf_counter() - began))
    return tick is not None


def cost_of(none: Steps, cache: Steps) -> Cost:
    """Least squares of seconds on rows over the steps of both; where rows explain nothing, all is fixed."""
    rows, seconds = [*none.rows, *cache.rows], [*none.seconds, *cache.seconds]
    middle, height = fmean(rows), fmean(seconds)
    spread = sum((r - middle) ** 2 for r in rows)
    shared = sum((r - middle) * (s - height) for r, s in zip(rows, seconds, strict=True))
    per_row = max(shared / spread, 0.0) if spread else 0.0
    fixed = max(height - per_row * middle, 0.0)
    return Cost(
        fixed, per_row, fmean(cache.seconds), fmean(cache.rows), fmean(none.seconds), fmean(none.rows), len(rows)
    )
