"""What compiling gains and costs: the choice of tokens in C, and by torch.compile the whole forward, a layer, or the
parts of a layer as one graph.

    python benchmarks/compiled.py
    python benchmarks/compiled.py --logits        # choosing a token from each row of logits: torch, in chunks, in C
    python benchmarks/compiled.py --embedded      # generations of the embedded model, without and with `compile`

One process, one thread, process CPU time; the ways take turns at every row count, a new one first in each turn, and
medians are given: other work on the machine falls on all alike. Random weights, one sequence.
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
from dkv.accel.compile_report import CompileReport
from dkv.accel.cpu_ops import RowChunks
from dkv.accel.inductor import Compiled
from dkv.accel.malloc import keep_freed
from dkv.accel.native_logits import native_logit_ops
from dkv.core.kv_cache import LayerCache
from dkv.core.layer_rules import DENSE, RotaryPhase
from dkv.core.model import ModelConfig
from dkv.core.packing import PackedRows, pack
from dkv.core.sampling import PLAIN_LOGIT_OPS
from dkv.lab.bench.shapes import named_shape, random_model
from dkv.layers.transformer import Rule, Transformer, TransformerBlock, attention

SLOTS = 768
ROWS = (8, 32, 128, 640)
WARM = (33, 50, 640, 640)
"""Row counts that are met first: a second one makes them variable, and attention over many rows is another graph."""

Clock = Callable[[], float]
Forward = Callable[[Tensor, PackedRows], Tensor]


def before(block: TransformerBlock, x: Tensor, turn: RotaryPhase) -> tuple[Tensor, Tensor, Tensor]:
    """What comes before attention, as one graph."""
    h = block.norm(x, block.attn_norm)
    return *block.qk(h, turn), block.value(h)


def after(block: TransformerBlock, x: Tensor, mixed: Tensor) -> Tensor:
    """What comes after it."""
    x = x + F.linear(mixed, block.out_weight)
    return x + block.mlp(x)


class Parts:
    """Runs dense layers in two graphs each, writing and attending as ever between them."""

    def __init__(self) -> None:
        self._before, self._after = torch.compile(before, fullgraph=True), torch.compile(after, fullgraph=True)

    def __call__(
        self,
        rule: Rule,
        blocks: Sequence[TransformerBlock],
        x: Tensor,
        at: PackedRows,
        turn: RotaryPhase,
        memories: Sequence[LayerCache],
    ) -> Tensor:
        """One after the other."""
        for block, memory in zip(blocks, memories, strict=True):
            q, k, v = self._before(block, x, turn)
            memory.write("k", at, k)
            memory.write("v", at, v)
            x = self._after(block, x, at.attend(q, *memory.kv, attention))
        return x


WAYS = ("eager", "compiled-layer", "compiled-parts", "compiled-forward")


def ways_of(names: Sequence[str], config: ModelConfig, dtype: torch.dtype) -> dict[str, Forward]:
    """Forwards by name, on weights laid out for the kernels operation by operation; on usual weights what torch.compile
    builds."""
    laid_out, model = random_model(config, dtype), random_model(config, dtype, arrange=False)

    def of(network: Transformer) -> Forward:
        memory = network.new_kv_cache(1, SLOTS)
        return lambda tokens, at: network.forward(tokens, at, memory, DENSE)

    made: dict[str, Callable[[], Forward]] = {
        "eager": lambda: of(laid_out),
        "compiled-layer": lambda: of(replace(model, run=Compiled(CompileReport()))),
        "compiled-parts": lambda: of(replace(model, run=Parts())),
        "compiled-forward": lambda: torch.compile(of(model), fullgraph=True),
    }
    return {name: made[name]() for name in names}


def case_of(rows: int) -> tuple[Tensor, PackedRows]:
    """So many rows at random slots."""
    mask = torch.zeros(1, SLOTS, dtype=torch.bool)
    mask[0, torch.randperm(SLOTS, generator=torch.Generator().manual_seed(rows))[:rows]] = True
    return torch.zeros(rows, dtype=torch.int64), pack(mask, [rows], None)


def seconds_of(ways: dict[str, Forward], rows: int, repeats: int, clock: Clock) -> dict[str, float]:
    """The median of each way, by turns."""
    case, taken, names = case_of(rows), dict[str, list[float]](), list(ways)
    for repeat in range(repeats + 1):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            forward = ways[name]
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
def logits(dtypes: Sequence[str], rows: Sequence[int], repeats: int, clock: Clock) -> None:
    """The most likely token of each row of logits and its log-probability, by turns, for a small vocabulary and
    LLaDA's: milliseconds of plain torch, of torch a few rows at a time, and in C."""
    ways = (PLAIN_LOGIT_OPS, RowChunks(), native_logit_ops(CompileReport()))
    for dtype in dtypes:
        for vocab in (2048, 126_464):
            for count in rows:
                given, taken = (3 * torch.randn(count, vocab)).to(getattr(torch, dtype)), [list[float]() for _ in ways]
                for _ in range(repeats + 1):
                    for way, seconds in zip(ways, taken, strict=True):
                        began = clock()
                        way.argmax_with_logprob(given, vocab - 1)
                        seconds.append(clock() - began)
                told = " / ".join(f"{1e3 * statistics.median(seconds[1:]):.2f}" for seconds in taken)
                print(f"{dtype} vocab {vocab:6} rows {count:3}: {told} ms", flush=True)


@torch.inference_mode()
def forwards(
    shapes: Sequence[str], dtypes: Sequence[str], names: Sequence[str], rows: Sequence[int], repeats: int, clock: Clock
) -> None:
    """A table of each shape and dtype."""
    for shape in shapes:
        for dtype in dtypes:
            ways = ways_of(names, named_shape(shape), getattr(torch, dtype))
            print(f"\n{shape}, {dtype}")
            for name, forward in ways.items():
                began = time.perf_counter()
                for count in WARM:
                    forward(*case_of(count))
                print(f"{name:16} first calls {time.perf_counter() - began:6.1f} s", flush=True)
            for count in rows:
                taken = seconds_of(ways, count, repeats, clock)
                cells = (f"{name} {1e3 * s:7.2f} ms {taken[names[0]] / s:5.3f}x" for name, s in taken.items())
                print(f"{count:4} rows  " + "   ".join(cells), flush=True)
            torch.compiler.reset()


def main() -> None:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wide = "small,width=1024,heads=16,mlp_width=2752"
    parser.add_argument("--shapes", nargs="+", default=["small", wide])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="the first is 1.00x")
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--embedded", action="store_true", help="whole generations of the embedded model instead")
    parser.add_argument("--logits", action="store_true", help="the choice of tokens instead")
    parser.add_argument("--threads", type=int, default=1, help="from two on it is the clock on the wall that counts")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = time.process_time if given.threads == 1 else time.perf_counter  # threads that wait look busy
    if given.embedded:
        embedded(given.repeats, clock)
    elif given.logits:
        logits(given.dtypes, given.rows, given.repeats, clock)
    else:
        keep_freed()  # as `dkv.load(compile=True)` does
        forwards(given.shapes, given.dtypes, given.ways, given.rows, given.repeats, clock)


if __name__ == "__main__":
    main()
