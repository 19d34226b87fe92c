"""A small grid of a benchmark."""

from __future__ import annotations

from dkv.lab.bench.grid import Grid

GRID = Grid(
    model="tiny", device="cpu", caches=["dkv-decode", "none", "dkv-decode"], dtypes=["float32"], prompts=[8, 4],
    gens=[16, 8], batches=[2, 1], block=8, decoder="confidence", seed=0, stop_at_eos=False, baseline="", threads=1,
    repeats=2,
)  # fmt: skip
