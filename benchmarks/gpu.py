"""What a step takes against what the machine allows, by cache, batch and prompt: random weights of real shapes.

    python benchmarks/gpu.py                       # on a GPU: LLaDA-8B and Dream-7B, with and without graphs
    python benchmarks/gpu.py --device cpu --shapes micro --dtype float32 --batches 1 2 --prompts 16 --gens 16

Only some steps are timed (`sampled.py`), and weighted by how often their kind occurs. Which positions are fixed when is
random, how many is not. One process; a GPU's clock is waited for around each step.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from sampled import Case, Kind, measure

from dkv.accel.backend import Backend, choose_backend
from dkv.caches import make_cache
from dkv.core.cache_size import cache_bytes
from dkv.core.model import ModelConfig
from dkv.errors import DkvError
from dkv.lab.bench.roofline import Rates, measure_rates, weight_bytes
from dkv.lab.bench.shapes import named_shape, random_model
from dkv.layers.transformer import Transformer
from dkv.lm import DiffusionLM
from dkv.loading import find_device, find_dtype

CACHES = ("none", "dkv-decode", "dkv-pd", "fast-dual", "dllm-cache", "dkv-greedy", "dkv-fill")
WAYS = ("eager", "graphs", "compile", "compile+graphs")


def summary(case: Case, kinds: Sequence[Kind], peak: int | None, cached: int) -> dict[str, Any]:
    """A generation's seconds and its median step, each kind weighted by how often it occurs."""
    middle = [statistics.median(kind.seconds) for kind in kinds]
    counts, bound = [len(kind.steps) for kind in kinds], [statistics.mean(kind.bounds) for kind in kinds]
    whole = sum(n * seconds for n, seconds in zip(counts, middle, strict=True))
    steps = sorted(seconds for n, seconds in zip(counts, middle, strict=True) for _ in range(n))
    return {
        **vars(case),
        "steps": sum(counts),
        "rows_per_step": sum(n * statistics.mean(k.rows) for n, k in zip(counts, kinds, strict=True)) / sum(counts),
        "median_step_seconds": statistics.median(steps),
        "seconds": whole,
        "bound_seconds": sum(n * b for n, b in zip(counts, bound, strict=True)),
        "tokens_per_second": case.batch * case.gen / whole,
        "peak_bytes": peak,
        "cache_bytes": cached,
        "kinds": [
            {"steps": len(k.steps), "rows": statistics.mean(k.rows), "seconds": k.seconds, "bounds": k.bounds}
            for k in kinds
        ],
    }


def needed(config: ModelConfig, case: Case, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes of the cache, and about how many a step takes beside the weights, at its largest."""
    cached = cache_bytes(config, make_cache(case.cache), case.prompt, case.gen, case.batch, dtype)
    rows, reads = case.batch * (case.prompt + case.gen), case.batch * case.block
    inside = rows * (3 * config.mlp_width + 6 * config.width) * dtype.itemsize
    return cached, cached + inside + reads * config.vocab * (dtype.itemsize + 12)


def free_bytes(device: torch.device) -> int:
    """What may still be allocated."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def run(lm: DiffusionLM, case: Case, rates: Rates, samples: int) -> dict[str, Any] | str:
    """The row of a case; or why there is none."""
    device = lm.model.device
    cached, need = needed(lm.model.config, case, lm.model.dtype)
    if need > (free := free_bytes(device)):
        return f"needs about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        kinds = measure(lm, case, rates, samples)
    except torch.OutOfMemoryError:
        return "ran out of memory"
    peak = int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
    return summary(case, kinds, peak, cached)


def ready(network: Transformer, way: str) -> Backend:
    """The network, run in a way of WAYS."""
    return choose_backend(network, network.device, compile="compile" in way, cuda_graphs="graphs" in way)


def cases_of(given: argparse.Namespace, shape: str) -> Iterator[list[Case]]:
    """Those that differ in their cache alone, `none` first, together."""
    for way in given.ways:
        for prompt in given.prompts:
            for gen in given.gens:
                for batch in given.batches:
                    block = min(given.block, gen)
                    caches = ["none", *(cache for cache in given.caches if cache != "none")]
                    yield [Case(shape, way, batch, prompt, gen, block, cache) for cache in caches]


HEADER = (
    f"{'cache':12} {'way':14} {'batch':>5} {'prompt':>6} {'gen':>4} {'rows':>8} {'step ms':>9} {'bound ms':>9} "
    f"{'x bound':>8} {'speed-up':>8} {'tokens/s':>9} {'GB':>6}"
)


def line(row: dict[str, Any], none: float | None) -> str:
    """A row of the table. step ms: the median step; x bound: the generation over what the machine allows."""
    held = row["cache_bytes"] if row["peak_bytes"] is None else row["peak_bytes"]
    return (
        f"{row['cache']:12} {row['way']:14} {row['batch']:5} {row['prompt']:6} {row['gen']:4} "
        f"{row['rows_per_step']:8.0f} {1e3 * row['median_step_seconds']:9.3f} "
        f"{1e3 * row['bound_seconds'] / row['steps']:9.3f} {row['seconds'] / row['bound_seconds']:8.2f} "
        f"{'-' if none is None else format(none / row['seconds'], '.2f'):>8} {row['tokens_per_second']:9.1f} "
        f"{held / 1e9:6.2f}"
    )


def table(given: argparse.Namespace, shape: str, device: torch.device, log: Any) -> None:
    """All cases of a shape."""
    config, dtype = named_shape(shape), find_dtype(given.dtype, device)
    weights = weight_bytes(config, dtype.itemsize) + config.vocab * config.width * dtype.itemsize
    if weights > free_bytes(device):
        print(f"{shape}: skipped: its weights need {weights / 1e9:.1f} GB", flush=True)
        return
    rates = measure_rates(dtype, device, weights)
    network = random_model(config, dtype, device=device)
    print(f"\n{shape}, {device}, {dtype}: {rates.flops / 1e12:.2f} TFLOP/s, {rates.bandwidth / 1e9:.0f} GB/s measured")
    print(HEADER, flush=True)
    for cases in cases_of(given, shape):
        backend, none = ready(network, cases[0].way), None
        lm = DiffusionLM(backend.model, None, backend=backend)
        for case in cases:
            row = run(lm, case, rates, given.samples)
            if isinstance(row, str):
                where = f"{case.cache:12} {case.way:14} {case.batch:5} {case.prompt:6} {case.gen:4}"
                print(f"{where} skipped: {row}", flush=True)
                continue
            none = row["seconds"] if case.cache == "none" else none
            print(line(row, none), flush=True)
            told = {**row, "none_seconds": none, "rates": vars(rates), "device": str(device), "dtype": str(dtype)}
            warmth = {name: vars(taken) for name, taken in lm.compile_report.items()}
            print(json.dumps(told | {"warmth": warmth}), file=log, flush=True)


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--shapes", "--shape", nargs="+", default=["llada-8b", "dream-7b"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompts", type=int, nargs="+", default=[128, 1024, 4096])
    parser.add_argument("--gens", type=int, nargs="+", default=[256])
    parser.add_argument("--block", type=int, default=32, help="tokens per block, at most gen")
    parser.add_argument("--caches", nargs="+", default=list(CACHES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="default: eager, and on a GPU graphs")
    parser.add_argument("--samples", type=int, default=3, help="steps of each kind that are timed")
    parser.add_argument("--out", default="gpu.jsonl", help="every row is appended here")
    return parser.parse_args()


def main() -> None:
    """Print the table of each shape."""
    given = parse()
    try:
        device = find_device(given.device)
        given.ways = given.ways or (["eager", "graphs"] if device.type == "cuda" else ["eager"])
        if device.type != "cuda" and any("graphs" in way for way in given.ways):
            raise SystemExit(f"error: ways={given.ways} with graphs need device=cuda, not {device}")
        if any(gen % min(given.block, gen) for gen in given.gens):
            raise SystemExit(f"error: gens={given.gens} must be multiples of block={given.block}")
        with open(given.out, "a", encoding="utf-8") as log:
            for shape in given.shapes:
                table(given, shape, device, log)
    except DkvError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
