"""Measuring one group of cells: everything at one point of the grid, interleaved step by step; or counting it.

A step of each in turn, whoever went first last time going last: a change of the machine's speed meets all alike, and
nobody always finds the caches that another has warmed.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from dkv.caches import make_cache
from dkv.core.cache_size import cache_bytes
from dkv.core.model import ModelConfig
from dkv.lab.bench.flops import Work, flops
from dkv.lab.bench.grid import AUTOREGRESSIVE, REFERENCE, Cell, settings_of
from dkv.lab.bench.instruments import Meter, peak_bytes
from dkv.lab.bench.replay import replay
from dkv.lab.bench.roofline import Rates, bound_seconds, synchronize, weight_bytes
from dkv.lab.bench.rows import Result
from dkv.lab.bench.runners import Runner, RunOutcome, autoregressive_work, runner_of
from dkv.lab.common.lab_prompts import sized_prompts
from dkv.lm import DiffusionLM

__all__ = ["Spent", "Tell", "count_group", "in_turn", "interleave", "measure_group"]

Tell = Callable[[str, float], object]
"""Is called before each run, with what comes and the share of its group that is done."""


@dataclass
class Spent:
    """Seconds by the wall clock and of the processor, and joules (0 without a meter)."""

    wall: float = 0.0
    cpu: float = 0.0
    joules: float = 0.0


@dataclass(frozen=True)
class _Group:
    """Cells that differ in their cache alone, and what their runs came to."""

    cells: Sequence[Cell]
    config: ModelConfig
    rates: Rates
    itemsize: int  # bytes of a weight
    outcomes: Sequence[RunOutcome]
    peaks: Sequence[int | None]
    spent: Sequence[Sequence[Spent]] = ()  # by repeat and cell
    metered: bool = False

    def results(self) -> list[Result]:
        """Of each cell."""
        return [self._result(number, cell) for number, cell in enumerate(self.cells)]

    def _result(self, number: int, cell: Cell) -> Result:
        names = [one.cache for one in self.cells]
        reference = names.index(REFERENCE)
        ar = names.index(AUTOREGRESSIVE) if AUTOREGRESSIVE in names else None
        own, none, config = self.outcomes[number], self.outcomes[reference], self.config
        bounds = (
            bound_seconds(config, work, self.rates, slots, self.itemsize, cell.quantize)
            for work, slots in zip(own.works, _slots(cell, own.works), strict=True)
        )
        return Result(
            seconds=[repeat[number].wall for repeat in self.spent],
            cpu_seconds=[repeat[number].cpu for repeat in self.spent],
            joules=[repeat[number].joules for repeat in self.spent] if self.metered else None,
            none_seconds=[repeat[reference].wall for repeat in self.spent],
            none_cpu_seconds=[repeat[reference].cpu for repeat in self.spent],
            ar_seconds=None if ar is None else [repeat[ar].wall for repeat in self.spent],
            ar_tokens=None if ar is None else self.outcomes[ar].new_tokens,
            new_tokens=own.new_tokens,
            forwards=sum(any(part.rows for part in work.parts) for work in own.works),
            rows_computed=own.rows_computed,
            rows_total=own.rows_total,
            flops=sum(flops(config, work) for work in own.works),
            none_flops=sum(flops(config, work) for work in none.works),
            peak_bytes=self.peaks[number],
            cache_bytes=own.cache_bytes,
            weight_bytes=weight_bytes(config, self.itemsize, cell.quantize),
            agreement=own.agreement(none),
            bound_seconds=sum(bounds),
        )


def measure_group(
    lm: DiffusionLM, cells: Sequence[Cell], rates: Rates, meter: Meter | None, tell: Tell
) -> list[Result]:
    """Results of cells that differ in their cache alone, no cache first, after an untimed run of each that also shows
    its memory."""
    prompts = sized_prompts(lm, cells[0].prompt, cells[0].batch, cells[0].seed)
    model, outcomes, peaks = lm.model, list[RunOutcome](), list[int | None]()
    runs = len(cells) * (1 + cells[0].repeats)
    for number, cell in enumerate(cells):
        tell(f"{cell.cache}, first run", number / runs)
        outcome, peak = _alone(partial(runner_of, lm, cell, prompts, counted=True), model.device)
        outcomes.append(outcome)
        peaks.append(peak)
    spent: list[list[Spent]] = []
    for repeat in range(cells[0].repeats):
        tell(f"repeat {repeat + 1} of {cells[0].repeats}", len(cells) * (1 + repeat) / runs)
        spent.append(interleave([runner_of(lm, cell, prompts) for cell in cells], meter, model.device))
    itemsize, metered = model.dtype.itemsize, meter is not None
    return _Group(cells, model.config, rates, itemsize, outcomes, peaks, spent, metered).results()


def count_group(config: ModelConfig, cells: Sequence[Cell], rates: Rates, dtype: torch.dtype) -> list[Result]:
    """Results of a canvas that is filled, counted without running a model: no times, peak memory and agreement."""
    outcomes = [_counted(config, cell, dtype) for cell in cells]
    return _Group(cells, config, rates, dtype.itemsize, outcomes, [None] * len(cells)).results()


def _counted(config: ModelConfig, cell: Cell, dtype: torch.dtype) -> RunOutcome:
    """What a run would come to."""
    sizes = (cell.prompt, cell.gen, cell.batch)
    held = cache_bytes(config, make_cache(REFERENCE if cell.cache == AUTOREGRESSIVE else cell.cache), *sizes, dtype)
    if cell.cache == AUTOREGRESSIVE:
        works = tuple(autoregressive_work(config, *sizes))
        total = sum(work.parts[0].rows for work in works)
    else:
        works = tuple(replay(config, settings_of(cell), cell.prompt, cell.batch))
        total = len([work for work in works if work.rows]) * cell.batch * (cell.prompt + cell.gen)
    return RunOutcome(works, (), cell.gen * cell.batch, sum(work.rows for work in works) / config.layers, total, held)


def _alone(make: Callable[[], Runner], device: torch.device) -> tuple[RunOutcome, int | None]:
    """What a run by itself comes to, and the memory that it takes."""
    made: list[Runner] = []

    def work() -> None:
        made.append(make())
        while made[0].step():
            pass

    gc.collect()
    peak = peak_bytes(work, device)
    return made[0].outcome(), peak


def interleave(runners: Sequence[Runner], meter: Meter | None, device: torch.device) -> list[Spent]:
    """Run all to their ends, step about; what each took."""
    spent = [Spent() for _ in runners]
    in_turn([partial(_timed, runner.step, mine, meter, device) for runner, mine in zip(runners, spent, strict=True)])
    return spent


def in_turn(steps: Sequence[Callable[[], bool]]) -> None:
    """Take a step of each in turn until all have answered False, which is that there was none left; whoever went first
    last time goes last."""
    active, turn = list(range(len(steps))), 0
    while active:
        first = turn % len(active)
        for number in (*active[first:], *active[:first]):
            if not steps[number]():
                active.remove(number)
        turn += 1


def _timed(step: Callable[[], bool], spent: Spent, meter: Meter | None, device: torch.device) -> bool:
    """Take a step, and book what it took."""
    energy = None if meter is None else meter.read()
    wall, cpu = time.perf_counter(), time.process_time()
    going = step()
    synchronize(device)
    spent.cpu += time.process_time() - cpu
    spent.wall += time.perf_counter() - wall
    if meter is not None and energy is not None:
        spent.joules += meter.joules(energy, meter.read())
    return going


def _slots(cell: Cell, works: Sequence[Work]) -> Iterator[int]:
    """How many keys each forward reads, of all sequences: the whole canvas, or what an autoregressive run has seen."""
    for number in range(len(works)):
        seen = cell.prompt + number if cell.cache == AUTOREGRESSIVE else cell.prompt + cell.gen
        yield cell.batch * seen
