"""Rows made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dkv.lab.bench.grid import AUTOREGRESSIVE, Cell
from dkv.lab.bench.rows import BenchRow, Result

CELL = Cell(
    model="tiny", device="cpu", dtype="float32", cache="dkv-decode", prompt=10, gen=20, block=20, steps=20, batch=2,
    decoder="confidence", seed=0, stop_at_eos=False, baseline="ar", threads=1, repeats=3,
)  # fmt: skip
RESULT = Result(
    seconds=[2.0, 1.0, 4.0],
    cpu_seconds=[1.0, 1.0, 2.0],
    joules=[10.0, 20.0, 30.0],
    none_seconds=[4.0, 4.0, 4.0],
    none_cpu_seconds=[4.0, 3.0, 2.0],
    ar_seconds=[1.0, 1.0, 1.0],
    ar_tokens=40,
    new_tokens=10,
    forwards=20,
    rows_computed=600,
    rows_total=1200,
    flops=1_000_000,
    none_flops=3_000_000,
    peak_bytes=5_000_000,
    cache_bytes=200_000,
    weight_bytes=7_000_000,
    agreement=0.75,
    bound_seconds=0.5,
)
ENVIRONMENT: dict[str, Any] = {
    "versions": {"dkv": "1", "torch": "2", "python": "3"},
    "machine": {"system": "Linux", "processor": "A <fast> one", "cores": 2, "capability": "AVX512"},
    "rates": {"flops": 1e11, "bandwidth": 1e10},
}


UNTIMED: dict[str, Any] = {
    "seconds": [], "cpu_seconds": [], "none_seconds": [], "none_cpu_seconds": [], "ar_seconds": [], "joules": None,
}  # fmt: skip
"""Changes to the result: nothing was timed."""


def row(result: dict[str, Any] | None = None, **cell: Any) -> BenchRow:
    """A row that differs from the sample in some of the result and some of the cell."""
    made = replace(CELL, **cell)
    return BenchRow(made, made.spec, ENVIRONMENT, replace(RESULT, **(result or {})))


def grid_of_rows() -> list[BenchRow]:
    """Three caches over two prompts and three responses; costs are powers of the length."""
    exponents = {"none": 3, "dkv-decode": 2, AUTOREGRESSIVE: 1}
    return [
        row(
            {"cpu_seconds": [1e-6 * gen**power] * 3, "seconds": [1.1e-6 * gen**power] * 3, "flops": 10 * gen**power,
             "forwards": gen, "agreement": None if cache == AUTOREGRESSIVE else 0.9},
            cache=cache, prompt=prompt, gen=gen, steps=gen, block=gen,
        )
        for prompt in (8, 16)
        for gen in (16, 32, 64)
        for cache, power in exponents.items()
    ]  # fmt: skip
