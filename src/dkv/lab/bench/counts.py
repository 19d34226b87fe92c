"""Counting a group of cells without running a model: rows, operations and bytes of a model of any size, in seconds."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dkv.caches import make_cache
from dkv.core.cache_size import cache_bytes
from dkv.core.model import ModelConfig
from dkv.lab.bench.autoregressive import autoregressive_work
from dkv.lab.bench.flops import Work
from dkv.lab.bench.grid import AUTOREGRESSIVE, REFERENCE, Cell, settings_of
from dkv.lab.bench.measure import result_of
from dkv.lab.bench.replay import replay
from dkv.lab.bench.roofline import Rates
from dkv.lab.bench.rows import Result
from dkv.lab.bench.runners import RunOutcome

__all__ = ["count_group"]


def count_group(config: ModelConfig, cells: Sequence[Cell], rates: Rates, dtype: torch.dtype) -> list[Result]:
    """Results without times, peak memory and agreement, of a canvas that is filled."""
    outcomes = [_outcome(config, cell, dtype) for cell in cells]
    made = (
        result_of(config, cells, number, outcomes, [], None, rates, dtype.itemsize, False)
        for number in range(len(cells))
    )
    return list(made)


def _outcome(config: ModelConfig, cell: Cell, dtype: torch.dtype) -> RunOutcome:
    """What a run would come to."""
    sizes = (cell.prompt, cell.gen, cell.batch)
    held = cache_bytes(config, make_cache(REFERENCE if cell.cache == AUTOREGRESSIVE else cell.cache), *sizes, dtype)
    if cell.cache == AUTOREGRESSIVE:
        works = tuple(autoregressive_work(config, *sizes))
        total = sum(work.parts[0].rows for work in works)
    else:
        works = tuple(replay(config, settings_of(cell), cell.prompt, cell.batch))
        total = len([work for work in works if _rows(work)]) * cell.batch * (cell.prompt + cell.gen)
    return RunOutcome(works, (), cell.gen * cell.batch, sum(map(_rows, works)) / config.layers, total, held)


def _rows(work: Work) -> int:
    """Rows through an MLP, summed over layers."""
    return sum(part.layers * part.rows for part in work.parts)
