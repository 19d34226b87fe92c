"""A whole benchmark: the groups that are not in the file yet, one after the other, each kept as soon as it is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from dkv.checkpoints.other_formats import read_config
from dkv.checkpoints.special_tokens import with_ids
from dkv.core.dtypes import named_dtype
from dkv.core.model import ModelConfig
from dkv.errors import SettingError
from dkv.lab.bench.grid import REFERENCE, Cell, Grid
from dkv.lab.bench.instruments import environment_of, find_meter
from dkv.lab.bench.measure import Tell, count_group, measure_group
from dkv.lab.bench.roofline import Rates, measure_rates, weight_bytes
from dkv.lab.bench.rows import BenchRow, Result, append_rows, key_of, read_rows
from dkv.lab.bench.shapes import random_model
from dkv.lm import DiffusionLM
from dkv.loading import arranged, find_model, load, loaded_as
from dkv.models import Transformer, architecture_of

__all__ = ["BenchSession", "Tell", "config_of", "cost_of"]


def config_of(model: str) -> ModelConfig:
    """The facts of what `load` takes as `model`; no weights are read. Raises what `load` raises."""
    directory = find_model(model)
    raw = read_config(directory)
    return architecture_of(raw).configure(with_ids(raw, directory))


class BenchSession:
    """A grid to be measured on a model of this config: the one that `grid.model` names, or (drawn) random weights; and
    the file for it. Raises SettingError for a grid that cannot be measured."""

    def __init__(self, grid: Grid, config: ModelConfig, drawn: bool, path: Path, device: torch.device) -> None:
        self._config, self._drawn, self._path, self._device = config, drawn, path, device
        self._environment, self._meter = environment_of(device), find_meter()
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise SettingError(f"out={str(path)!r} must be a file in a directory that exists")
        self._groups = grid.groups()
        longest = max(cell.prompt + cell.gen for group in self._groups for cell in group)
        if longest > config.context:
            raise SettingError(
                f"prompt_length and gen_length come to {longest}, beyond the model's context of {config.context}; "
                f"shorten one of them"
            )
        self._known = {row.key: row for row in read_rows(path)}

    @property
    def outstanding(self) -> list[list[Cell]]:
        """The groups with a cell that is not in the file, with those cells and no cache."""
        left = []
        for group in self._groups:
            missing = [cell for cell in group if self._key(cell) not in self._known]
            if missing:
                left.append([cell for cell in group if cell in missing or cell.cache == REFERENCE])
        return left

    @property
    def rows(self) -> list[BenchRow]:
        """The rows of the grid that are there, in its order."""
        keys = [self._key(cell) for group in self._groups for cell in group]
        return [self._known[key] for key in keys if key in self._known]

    def run(self, tell: Tell) -> Iterator[list[Cell]]:
        """Measure what is outstanding; each group as it is done. tell: is called with what comes."""
        lm: DiffusionLM | None = None
        rates, dtype = None, ""
        for group in self.outstanding:
            cell = group[0]
            if rates is None or cell.dtype != dtype:
                lm, dtype = None, cell.dtype  # let go of the last model first
                tell(f"loading {cell.model} in {cell.numbers}", 0.0)
                held = weight_bytes(self._config, named_dtype("dtype", dtype).itemsize, cell.quantize)
                rates = measure_rates(named_dtype("dtype", dtype), self._device, held)
                lm = self._load(cell) if cell.repeats else None
            if lm is None:
                tell("counting", 0.0)
                results = count_group(self._config, group, rates, named_dtype("dtype", dtype))
            else:
                results = measure_group(lm, group, rates, self._meter, tell)
            self._keep(group, results, rates)
            yield group

    def _key(self, cell: Cell) -> str:
        return key_of(cell, self._environment["versions"])

    def _keep(self, group: Sequence[Cell], results: Sequence[Result], rates: Rates) -> None:
        """Add what is new to the file."""
        environment = {**self._environment, "rates": {"flops": rates.flops, "bandwidth": rates.bandwidth}}
        rows = [BenchRow(cell, cell.spec, environment, result) for cell, result in zip(group, results, strict=True)]
        new = [row for row in rows if row.key not in self._known]
        append_rows(self._path, new)
        self._known |= {row.key: row for row in new}

    def _load(self, cell: Cell) -> DiffusionLM:
        """The model in the dtype of a cell. Raises what `load` raises."""
        if self._drawn:
            lm = loaded_as(self._draw(cell), self._device, cell.model, compile=cell.compile)
        else:
            lm = load(
                cell.model, device=str(self._device), dtype=cell.dtype, quantize=cell.quantize, compile=cell.compile
            )
        # What the libraries allocate once and for all is no run's memory.
        lm.generate([[0]], gen_length=2, cache=REFERENCE, decoder=cell.decoder, seed=0)
        return lm

    def _draw(self, cell: Cell) -> Transformer:
        """A model of the shape, its weights laid out as `load` would."""
        dtype, arrange = named_dtype("dtype", cell.dtype), arranged(self._device, cell.compile)
        return random_model(self._config, dtype, device=self._device, quantize=cell.quantize, arrange=arrange)


def cost_of(cells: Sequence[Cell]) -> int:
    """About how long a group takes, in no unit: rows times steps times runs."""
    one = cells[0]
    return len(cells) * (1 + one.repeats) * one.batch * one.gen * (one.prompt + one.gen + 64)
