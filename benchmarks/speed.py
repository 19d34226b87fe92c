"""How much of the rows saved becomes time saved, and how much the engine adds to a bare forward.

    python benchmarks/speed.py rows      random weights: every policy against bare forwards of the same rows
    python benchmarks/speed.py embedded  the embedded model: every policy against no cache, over prompt and gen lengths

One process, one thread, process CPU time. What is compared runs interleaved, step by step: after each step of the engine
the same number of rows goes through the same weights with no plan, no cache and no decoder (a bare forward), or the same
step is taken by the other policy. So a change of the machine's speed meets both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from dkv.caches import make_cache
from dkv.canvas import lay_out
from dkv.decoders import make_decoder
from dkv.denoise import Schedule, State, advance
from dkv.lm import load
from dkv.models.layers import Transformer, Turn, attention, bucket_for
from dkv.sampling import Sampling
from random_model import random_model, shape

POLICIES = ("dkv-decode", "dkv-prefill", "dkv-pd", "dkv-greedy:refresh=8,window=4")


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
        turn = Turn(*model.rotary[:, :rows].unsqueeze(2))
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
    steps: list[float] = field(default_factory=list)


def against_bare(model: Transformer, spec: str, prompt: int, gen_length: int) -> Pair:
    """Generate once, a bare forward of the same rows after each step."""
    state, bare, pair = begin(model, spec, prompt, gen_length), Bare(model, prompt + gen_length), Pair()
    while True:
        engine, tick = cpu_seconds(lambda: advance(state))
        if tick is None:
            return pair
        rows, reads = tick.counts[0], 0 if tick.read is None else len(tick.read.flat)  # type: ignore[attr-defined]
        bare(rows, reads)  # both meet a kernel that is built: a new shape's first call is not timed
        pair.engine += engine
        pair.bare += cpu_seconds(lambda r=rows, n=reads: bare(r, n))[0]  # type: ignore[misc]
        pair.rows += rows
