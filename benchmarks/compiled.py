"""What compiling gains and costs: the passes between products in C, with them a layer in one call (in C), or by
torch.compile the whole forward, a layer, or the parts of a layer as one graph.

    python benchmarks/compiled.py
    python benchmarks/compiled.py --embedded      # generations of the embedded model, without and with `compile`

One process, one thread, process CPU time; the ways take turns at every row count. Random weights, one sequence.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

import dkv
from dkv.bench.shapes import named_shape, random_model
from dkv.memory import LayerMemory
from dkv.models.compiled import Compiled
from dkv.models.layers import Block, Rule, Transformer, attention
from dkv.models.native import native
from dkv.models.whole import whole
from dkv.place import At, pack
from dkv.rules import DENSE, Turn

SLOTS = 768
ROWS = (8, 32, 128, 640)
WARM = (33, 50, 640, 640)
"""Row counts that are met first: a second one makes them variable, and attention over many rows is another graph."""

Clock = Callable[[], float]
Forward = Callable[[Tensor, At], Tensor]


def before(block: Block, x: Tensor, turn: Turn) -> tuple[Tensor, Tensor, Tensor]:
    """What comes before attention, as one graph."""
    h = block.norm(x, block.attn_norm)
    return *block.qk(h, turn), block.value(h)


def after(block: Block, x: Tensor, mixed: Tensor) -> Tensor:
    """What comes after it."""
    x = x + F.linear(mixed, block.out_weight)
    return x + block.mlp(x)


class Parts:
    """Runs dense layers in two graphs each, writing and attending as ever between them."""

    def __init__(self) -> None:
        self._before, self._after = torch.compile(before, fullgraph=True), torch.compile(after, fullgraph=True)

    def __call__(
        self, rule: Rule, blocks: Sequence[Block], x: Tensor, at: At, turn: Turn, memories: Sequence[LayerMemory]
    ) -> Tensor:
        """One after the other."""
        for block, memory in zip(blocks, memories, strict=True):
            q, k, v = self._before(block, x, turn)
            memory.put("k", at, k)
            memory.put("v", at, v)
            x = self._after(block, x, at.attend(q, *memory.kv, attention))
        return x


def ways_of(laid_out: Transformer, model: Transformer) -> dict[str, Forward]:
    """Forwards by name, `eager` first, on weights laid out for the kernels, also with the passes between products in C,
    and with layers in one call; what torch.compile builds, on usual weights."""
    passes = native()

    def of(network: Transformer) -> Forward:
        memory = network.remember(1, SLOTS)
        return lambda tokens, at: network.forward(tokens, at, memory, DENSE)

    return {
        "eager": of(laid_out),
        "passes": of(laid_out.passing(passes)),
        "in C": of(whole(laid_out, passes)),
        "layer": of(replace(model, run=Compiled())),
        "parts": of(replace(model, run=Parts())),
        "forward": torch.compile(of(model), fullgraph=True),
    }


def case_of(rows: int) -> tuple[Tensor, At]:
    """So many rows at random slots."""
    mask = torch.zeros(1, SLOTS, dtype=torch.bool)
    mask[0, torch.randperm(SLOTS, generator=torch.Generator().manual_seed(rows))[:rows]] = True
    return torch.zeros(rows, dtype=torch.int64), pack(mask, [rows], None)


def seconds_of(ways: dict[str, Forward], rows: int, repeats: int, clock: Clock) -> dict[str, float]:
    """The median of each way, by turns."""
    case, taken = case_of(rows), dict[str, list[float]]()
    for repeat in range(repeats + 1):
        for name, forward in ways.items():
            began = clock()
            forward(*case)
            if repeat:  # the first is a warm-up
                taken.setdefault(name, []).append(clock() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def embedded(repeats: int, clock: Clock, gen_length: int = 128) -> None:
    """Generations of the embedded model by cache, by turns: seconds without and with, and their ratio."""
    question = "Write a Python function that adds two numbers."
    models = [dkv.load("tiny", device="cpu", compile=compiled) for compiled in (False, True)]
    for cache in ("none", "dkv-decode", "dkv-fill", "dllm-cache"):
        taken: list[list[float]] = [[], []]
        for repeat in range(repeats + 1):
            for lm, seconds in zip(models, taken, strict=True):
                began = clock()
                lm.generate(question, gen_length=gen_length, cache=cache)
                if repeat:  # the first is a warm-up
                    seconds.append(clock() - began)
        without, built = (statistics.median(seconds) for seconds in taken)
        print(f"{cache:12} {without:.3f} s   {built:.3f} s   {without / built:.2f}x", flush=True)


@torch.inference_mode()
def forwards(shapes: Sequence[str], dtypes: Sequence[str], repeats: int, clock: Clock) -> None:
    """A table of each shape and dtype."""
    for shape in shapes:
        for dtype in dtypes:
            config, kind = named_shape(shape), getattr(torch, dtype)
            ways = ways_of(random_model(config, kind), random_model(config, kind, arrange=False))
            print(f"\n{shape}, {dtype}")
            for name, forward in ways.items():
                began = time.perf_counter()
                for rows in WARM:
                    forward(*case_of(rows))
                print(f"{name:8} first calls {time.perf_counter() - began:6.1f} s", flush=True)
            for rows in ROWS:
                taken = seconds_of(ways, rows, repeats, clock)
                cells = (f"{name} {1e3 * s:7.2f} ms {taken['eager'] / s:5.2f}x" for name, s in taken.items())
                print(f"{rows:4} rows  " + "   ".join(cells), flush=True)
            torch.compiler.reset()


def main() -> None:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wide = "small,width=1024,heads=16,mlp_width=2752"
    parser.add_argument("--shapes", nargs="+", default=["small", wide])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--embedded", action="store_true", help="whole generations of the embedded model instead")
    parser.add_argument("--threads", type=int, default=1, help="from two on it is the clock on the wall that counts")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = time.process_time if given.threads == 1 else time.perf_counter  # threads that wait look busy
    if given.embedded:
        embedded(given.repeats, clock)
    else:
        forwards(given.shapes, given.dtypes, given.repeats, clock)


if __name__ == "__main__":
    main()
