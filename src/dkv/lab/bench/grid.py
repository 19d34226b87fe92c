"""What is measured: cells, one for each cache at each point of the grid, and the groups that are timed together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from typing import Any

from dkv.caches import make_cache
from dkv.core.registry import spec_of
from dkv.decoders import make_decoder
from dkv.errors import SettingError
from dkv.layers.quantized import check_kind
from dkv.params import ResolvedParams, SamplingParams

__all__ = ["AUTOREGRESSIVE", "REFERENCE", "Cell", "Grid", "settings_of"]

AUTOREGRESSIVE = "autoregressive"
"""In place of a cache: the same weights with a causal mask, token by token."""

REFERENCE = "none"
"""What every cache is compared with."""


@dataclass(frozen=True, kw_only=True)
class _Common:
    """What all cells of a grid have in common."""

    model: str  # what was loaded, or the shape
    device: str
    decoder: str
    seed: int
    stop_at_eos: bool
    baseline: str  # "ar" where the autoregressive run is made beside the caches
    threads: int  # of torch
    repeats: int  # timed runs
    quantize: str | None = None  # as `load` takes it
    compile: bool = False  # as `load` takes it


@dataclass(frozen=True, kw_only=True)
class Cell(_Common):
    """The settings of one row."""

    dtype: str
    cache: str  # a spec, or AUTOREGRESSIVE
    prompt: int  # tokens
    gen: int  # tokens
    block: int  # tokens
    steps: int
    batch: int  # sequences, all alike but for their text

    @property
    def key(self) -> str:
        """The settings as one line, equal for equal settings."""
        return json.dumps(self.record, sort_keys=True)

    @property
    def record(self) -> dict[str, Any]:
        """The settings by name. What came later is left out where it is as it was before: older rows go on."""
        left_out = {("quantize", None), ("compile", False)}
        return {name: value for name, value in asdict(self).items() if (name, value) not in left_out}

    @property
    def numbers(self) -> str:
        """The dtype, the kind of weights unless they are plain, and whether code was compiled."""
        return ", ".join(filter(None, (self.dtype, self.quantize, "compiled" if self.compile else None)))

    @property
    def spec(self) -> str:
        """The cache with every key written out."""
        return self.cache if self.cache == AUTOREGRESSIVE else spec_of(make_cache(self.cache))

    @property
    def point(self) -> Cell:
        """The place in the grid, whatever the cache."""
        return replace(self, cache=REFERENCE)


@dataclass(frozen=True, kw_only=True)
class Grid(_Common):
    """All combinations of some values of a cell."""

    caches: Sequence[str]
    dtypes: Sequence[str]
    prompts: Sequence[int]
    gens: Sequence[int]
    batches: Sequence[int]
    block: int | None  # tokens; None = gen

    def groups(self) -> list[list[Cell]]:
        """The cells by point, no cache first, the cheapest points first within a dtype.

        Raises SettingError for values that no generation takes.
        """
        if self.baseline not in ("", "ar"):
            raise SettingError(f"baseline={self.baseline!r} is unknown; known: ar")
        for name, values, least in (
            ("prompt_length", self.prompts, 1), ("batch", self.batches, 1), ("repeats", [self.repeats], 0),
        ):  # fmt: skip
            if (value := min(values)) < least:
                raise SettingError(f"{name}={value} must be a whole number of at least {least}")
        check_kind(self.quantize)
        caches = list(dict.fromkeys((REFERENCE, *self.caches, *([AUTOREGRESSIVE] if self.baseline else []))))
        points = sorted(set(product(self.prompts, self.gens, self.batches)), key=lambda p: (p[0] + p[1]) * p[1] * p[2])
        groups = []
        for dtype, (prompt, gen, batch) in product(dict.fromkeys(self.dtypes), points):
            groups.append([self._cell(dtype, prompt, gen, batch, cache) for cache in caches])
            for cell in groups[-1]:
                settings_of(cell)  # what is wrong with the last should not cost the runs before it
        return groups

    def _cell(self, dtype: str, prompt: int, gen: int, batch: int, cache: str) -> Cell:
        common = {field.name: getattr(self, field.name) for field in fields(_Common)}
        block = gen if self.block is None else min(self.block, gen)
        return Cell(**common, dtype=dtype, cache=cache, prompt=prompt, gen=gen, block=block, steps=gen, batch=batch)


def settings_of(cell: Cell) -> ResolvedParams:
    """The generation of a cell. Raises SettingError and SpecError."""
    cache = make_cache(REFERENCE if cell.cache == AUTOREGRESSIVE else cell.cache)
    params = SamplingParams(
        gen_length=cell.gen, block_length=cell.block, steps=cell.steps, stop_at_eos=cell.stop_at_eos
    )
    return params.resolve(cache, make_decoder(cell.decoder), cell.seed)
