"""How often company changes a sequence's tokens: the embedded model's evaluation prompts, alone and in ragged batches.

    python benchmarks/invariance.py --dtypes float32 bfloat16

In float32 the expected figure is zero. In bfloat16 the kernels round differently for different numbers of rows, and a
near tie can fall the other way.
"""

from __future__ import annotations

import argparse

from dkv import DiffusionLM, load
from dkv.tiny import TASKS, load_eval


def flips(lm: DiffusionLM, prompts: list[str], cache: str, temperature: float, batch_size: int) -> tuple[int, int]:
    """Sequences whose tokens differ between batches and alone, and those whose text does."""
    made = [
        lm.generate(prompts, gen_length=64, cache=cache, temperature=temperature, seed=7, batch_size=size)
        for size in (1, batch_size)
    ]
    pairs = list(zip(*made, strict=True))
    return sum(a.token_ids != b.token_ids for a, b in pairs), sum(a.text != b.text for a, b in pairs)


def main() -> None:
    """Print one line per dtype, cache and temperature."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--caches", nargs="+", default=["none", "dkv-decode", "dkv-greedy", "dkv-pd", "dllm-cache"])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7])
    parser.add_argument("--count", type=int, default=8, help="prompts of each task")
    parser.add_argument("--batch-size", type=int, default=16)
    given = parser.parse_args()
    prompts = [example.prompt for task in TASKS for example in load_eval(task)[: given.count]]
    for dtype in given.dtypes:
        lm = load("tiny", dtype=dtype)
        for cache in given.caches:
            for temperature in given.temperatures:
                tokens, texts = flips(lm, prompts, cache, temperature, given.batch_size)
                print(f"{dtype} {cache} temperature {temperature}: {tokens}/{len(prompts)} tokens differ, "
                      f"{texts}/{len(prompts)} texts", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
