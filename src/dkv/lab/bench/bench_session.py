"""A whole benchmark: the groups that are not in the file yet, one after the other, each kept as soon as it is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Loaded:
    """A model in one dtype (None where it is only counted), and what the machine does in that dtype."""

    lm: DiffusionLM | None
    dtype: torch.dtype
    rates: Rates


def config_of(model: str) -> ModelConfig:
    """The facts of what `load` takes as `model`; no weights are read. Raises what `load` raises."""
    directory = find_model(model)
    raw = read_config(directory)
    config: ModelConfig = architecture_of(raw).configure(with_ids(raw, directory))
    return config


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
        loaded: _Loaded | None = None
        dtype = ""
        for group in self.outstanding:
            if loaded is None or group[0].dtype != dtype:
                loaded, dtype = None, group[0].dtype  # let go of the last model first
                tell(f"loading {group[0].model} in {group[0].numbers}", 0.0)
                loaded = self._load(group[0])
            self._keep(group, self._measure(loaded, group, tell), loaded.rates)
            yield group

    def _key(self, cell: Cell) -> str:
        return key_of(cell, self._environment["versions"])

    def _measure(self, loaded: _Loaded, group: Sequence[Cell], tell: Tell) -> list[Result]:
        if loaded.lm is None:
            tell("counting", 0.0)
            return count_group(self._config, group, loaded.rates, loaded.dtype)
        return measure_group(loaded.lm, group, loaded.rates, self._meter, tell)

    def _keep(self, group: Sequence[Cell], results: Sequence[Result], rates: Rates) -> None:
        """Add what is new to the file."""
        environment = {**self._environment, "rates": {"flops": rates.flops, "bandwidth": rates.bandwidth}}
        rows = [BenchRow(cell, cell.spec, environment, result) for cell, result in zip(group, results, strict=True)]
        new = [row for row in rows if row.key not in self._known]
        append_rows(self._path, new)
        self._known |= {row.key: row for row in new}

    def _load(self, cell: Cell) -> _Loaded:
        """The model in the dtype of a cell, unless it is only counted. Raises what `load` raises."""
        dtype = named_dtype("dtype", cell.dtype)
        rates = measure_rates(dtype, self._device, weight_bytes(self._config, dtype.itemsize, cell.quantize))
        if not cell.repeats:
            return _Loaded(None, dtype, rates)
        if self._drawn:
            network = self._draw(cell, dtype)
            lm = loaded_as(network, self._device, cell.model, compile=cell.compile)
        else:
            lm = load(
                cell.model, device=str(self._device), dtype=cell.dtype, quantize=cell.quantize, compile=cell.compile
            )
        # What the libraries allocate once and for all is no run's memory.
        lm.generate([[0]], gen_length=2, cache=REFERENCE, decoder=cell.decoder, seed=0)
        return _Loaded(lm, dtype, rates)

    def _draw(self, cell: Cell, dtype: torch.dtype) -> Transformer:
        """A model of the shape, its weights laid out as `load` would."""
        arrange = arranged(self._device, cell.compile)
        return random_model(self._config, dtype, device=self._device, quantize=cell.quantize, arrange=arrange)


def cost_of(cells: Sequence[Cell]) -> int:
    """About how long a group takes, in no unit: rows times steps times runs."""
    one = cells[0]
    return len(cells) * (1 + one.repeats) * one.batch * one.gen * (one.prompt + one.gen + 64)
