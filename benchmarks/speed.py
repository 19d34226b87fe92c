"""How much of the rows saved becomes time saved, and how much the engine adds to a bare forward.

    python benchmarks/speed.py rows      random weights: every policy against bare forwards of the same rows
    python benchmarks/speed.py embedded  the embedded model: every policy against no cache, over prompt and gen lengths

One process, one thread, process CPU time. What is compared runs interleaved, step by step: after each step of the
engine the same number of rows goes through the same weights with no plan, no cache and no decoder (a bare forward), or
the same step is taken by the other policy. So a change of the machine's speed meets both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TextIO

import torch
from random_model import random_model, shape
from torch.nn import functional as F

from dkv.caches import make_cache
from dkv.canvas import lay_out
from dkv.decoders import make_decoder
from dkv.denoise import Schedule, State, advance
from dkv.loading import load
from dkv.models.layers import Transformer, attention, bucket_for
from dkv.rules import Turn
from dkv.sampling import Sampling

POLICIES = ("dkv-decode", "dkv-prefill", "dkv-pd", "dkv-greedy", "dkv-greedy:refresh=8,window=4")


def begin(model: Transformer, spec: str, prompt: int, gen_length: int) -> State:
    """One sequence of `prompt` equal tokens and gen_length masked ones, as many steps as tokens, never stopped early.
    Greedy runs with the order it needs."""
    canvas = lay_out([[5] * prompt], gen_length, model.config.mask_id, [0])
    one, steps = torch.tensor([1]), torch.tensor([gen_length])
    return State(
        model=model,
        canvas=canvas,
        memory=model.remember(1, prompt + gen_length),
        policy=make_cache(spec),
        decoder=make_decoder("random" if "greedy" in spec else "confidence"),
        sampling=Sampling(torch.zeros(1), None, None, greedy=True),
        schedule=Schedule(steps, one, steps),
        bucket=bucket_for(model.device, model.dtype),
    )


class Bare:
    """The forward that a perfect engine would run: the same weights on `rows` rows, attention over `keys` fixed keys,
    the head on `reads` of them."""

    def __init__(self, model: Transformer, keys: int) -> None:
        c, self.model = model.config, model
        self.k = torch.randn(1, c.kv_heads, keys, c.head_dim).to(model.dtype)
        self.v = torch.randn(1, c.kv_heads, keys, c.head_dim).to(model.dtype)

    @torch.inference_mode()
    def __call__(self, rows: int, reads: int) -> None:
        """One forward."""
        model = self.model
        x = F.embedding(torch.zeros(rows, dtype=torch.int64), model.embedding)
        model.rotary.reach(rows)
        turn = Turn(*model.rotary.table[:, :rows].unsqueeze(2))
        for block in model.blocks:
            h = block.norm(x, block.attn_norm)
            q, _ = block.qk(h, turn)
            block.value(h)
            mixed = attention(q.transpose(0, 1)[None], self.k, self.v, None)
            x = x + F.linear(mixed[0].transpose(0, 1).flatten(1), block.out_weight)
            x = x + block.mlp(x)
        if reads:
            model.logits(x[:reads])


def cpu_seconds(work: Callable[[], object]) -> tuple[float, object]:
    """Process CPU time of one call, and its result."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


@dataclass
class Pair:
    """CPU seconds of the engine and of the bare forwards over one generation, and the rows both computed."""

    engine: float = 0.0
    bare: float = 0.0
    rows: int = 0


def against_bare(model: Transformer, spec: str, prompt: int, gen_length: int) -> Pair:
    """Generate once, a bare forward of the same rows after each step."""
    state, bare, pair = begin(model, spec, prompt, gen_length), Bare(model, prompt + gen_length), Pair()
    met: set[int] = set()
    while True:
        engine, tick = cpu_seconds(lambda: advance(state))
        if tick is None:
            return pair
        rows, reads = tick.counts[0], 0 if tick.read is None else len(tick.read.flat)  # type: ignore[attr-defined]
        if rows not in met:  # a new shape's first call builds its kernel: not timed here, nor often met by the engine
            bare(rows, reads)
            met.add(rows)
        pair.engine += engine
        pair.bare += cpu_seconds(lambda r=rows, n=reads: bare(r, n))[0]  # type: ignore[misc]
        pair.rows += rows


def against_none(
    model: Transformer, spec: str, prompt: int, gen_length: int, steps: int | None = None
) -> tuple[float, float, int, int]:
    """CPU seconds of `none` and of a policy, step about, and the rows that each computed.

    Both use the decoder that the policy needs, so that they read and commit alike.
    """
    policy = begin(model, spec, prompt, gen_length)
    none = begin(model, "none", prompt, gen_length)
    none.decoder = policy.decoder
    seconds, rows = [0.0, 0.0], [0, 0]
    for step in range(steps or gen_length):
        # Whoever goes second finds warm caches: take turns.
        for which in (0, 1) if step % 2 else (1, 0):
            spent, tick = cpu_seconds(lambda s=(none, policy)[which]: advance(s))  # type: ignore[misc]
            seconds[which] += spent
            rows[which] += tick.counts[0]  # type: ignore[attr-defined]
    return seconds[0], seconds[1], rows[0], rows[1]


def rows_table(log: TextIO, dtypes: Iterable[str], repeats: int, prompt: int, gen_length: int) -> None:
    """Acceptance of the engine's overhead: medians over `repeats` generations."""
    for dtype in dtypes:
        model = random_model(shape(512, 8, 8, 1376, 2048), getattr(torch, dtype))
        taken: dict[str, list[Pair]] = {}
        for repeat in range(repeats + 1):
            for spec in ("none", *POLICIES):
                pair = against_bare(model, spec, prompt, gen_length if repeat else min(gen_length, 16))
                if repeat:  # the first is a warm-up
                    taken.setdefault(spec, []).append(pair)
        base = taken["none"]
        print(
            f"\n{dtype}, prompt {prompt}, gen {gen_length}, {repeats} repeats, 1 thread, process CPU seconds (medians)"
        )
        print(f"{'policy':30} engine    bare  engine/bare  rows-x  bare-x  engine-x  engine-x/bare-x  engine-x/rows-x")
        for spec, pairs in taken.items():
            engine, bare = (statistics.median(getattr(p, k) for p in pairs) for k in ("engine", "bare"))
            saved = base[0].rows / pairs[0].rows
            bare_x = statistics.median(b.bare / p.bare for b, p in zip(base, pairs, strict=True))
            engine_x = statistics.median(b.engine / p.engine for b, p in zip(base, pairs, strict=True))
            print(
                f"{spec:30} {engine:6.2f}  {bare:6.2f}  {engine / bare:11.3f}  {saved:6.2f}  {bare_x:6.2f}  "
                f"{engine_x:8.2f}  {engine_x / bare_x:15.3f}  {engine_x / saved:15.3f}",
                flush=True,
            )
            record = {"dtype": dtype, "cache": spec, "engine": [p.engine for p in pairs], "rows": pairs[0].rows}
            print(json.dumps(record | {"bare": [p.bare for p in pairs]}), file=log, flush=True)


def embedded_table(log: TextIO, dtype: str, repeats: int, prompts: list[int], lengths: list[int]) -> None:
    """Speed-up over `none` on the embedded model; each cell the median of `repeats`."""
    model = load("tiny", dtype=dtype).model
    print(f"\nembedded model, {model.dtype}, speed-up over none (rows saved), {repeats} repeats, 1 thread, CPU time")
    print(f"{'prompt':>6} {'gen':>4}  " + "  ".join(f"{spec:>28}" for spec in POLICIES))
    for prompt in prompts:
        for length in lengths:
            cells = []
            for spec in POLICIES:
                against_none(model, spec, prompt, length, steps=8)  # type: ignore[arg-type]
                runs = [against_none(model, spec, prompt, length) for _ in range(repeats)]  # type: ignore[arg-type]
                ratio = statistics.median(none / policy for none, policy, _, _ in runs)
                cells.append(f"{ratio:20.3f} ({runs[0][2] / runs[0][3]:4.1f}x)")
                print(json.dumps({"prompt": prompt, "gen": length, "cache": spec, "runs": runs}), file=log, flush=True)
            print(f"{prompt:6} {length:4}  " + "  ".join(cells), flush=True)


def main() -> None:
    """Run one of the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("rows", "embedded"))
    parser.add_argument("--out", default="speed.jsonl", help="every measurement is appended here")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--prompts", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--gens", type=int, nargs="+", default=[32, 128, 256])
    given = parser.parse_args()
    torch.set_num_threads(1)
    with open(given.out, "a", encoding="utf-8") as log:
        if given.table == "rows":
            rows_table(log, given.dtypes, given.repeats, prompt=64, gen_length=256)
        else:
            embedded_table(log, "auto", given.repeats, given.prompts, given.gens)


if __name__ == "__main__":
    main()
