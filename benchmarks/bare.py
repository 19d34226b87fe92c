"""How close a step of every policy comes to a bare forward of the same rows, and what is left of the rows saved.

    python benchmarks/bare.py                                      # everything, both dtypes: about an hour
    python benchmarks/bare.py --compile                            # the same with what `--compile` builds on a CPU
    python benchmarks/bare.py --widths 512 --batches 1 --prompts 64 --dtypes bfloat16
    python benchmarks/bare.py --prompts 512 --gen 128 --steps 64 --cache dllm-cache     # the published setting

A *bare forward* is the same weights and products on as many rows, attention over as many keys, the head where it is
read; no plan, no cache, no decoder. One process, one thread by default, processor time, engine and bare in turn.
*In the forward*: the share of a step that the engine's own forward and head take, the rest being the plan, the decoder
and what goes between them.

A generation is walked twice, by a stub in place of the model. First to learn which kinds of steps there are; the second
time, some steps of each kind are taken by the model as well, several times from the same point. A kind's time depends
on its rows, not on what the weights say, so the time of a whole generation follows, and large shapes are measured in
minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import torch
from random_model import random_model, shape
from sampled import Stub, again
from torch import Tensor
from torch.nn import functional as F

from dkv.accel.backend import choose_backend
from dkv.caches import make_cache
from dkv.core.canvas import SequenceState, lay_out
from dkv.core.kv_cache import LayerCache
from dkv.core.layer_rules import DENSE, RotaryPhase
from dkv.core.loop import Schedule, State, StepOutput, advance
from dkv.core.packing import PackedRows, pack
from dkv.core.sampling import Sampling
from dkv.decoders import make_decoder
from dkv.layers.transformer import Transformer, TransformerBlock, bucket_for

POLICIES = (
    "none", "dkv-decode", "dkv-prefill", "dkv-pd", "dkv-greedy", "dkv-greedy:refresh=8,window=4", "dllm-cache",
    "fast-prefix", "fast-dual", "dkv-fill",
)  # fmt: skip
BLOCK = 32
"""Block length of the policies that need blocks; the others have one."""
MOST = 10
"""Kinds of steps that are timed of a policy; the others' times are interpolated between them."""


HEADINGS = (
    "policy", "ms a step", "engine / bare", "worst kind", "in the forward", "rows saved",
    "bare speed-up", "engine speed-up", "of the bare",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What is generated: batch equal prompts of `prompt` tokens, gen masked ones, in so many steps."""

    batch: int
    prompt: int
    gen: int
    steps: int

    def __str__(self) -> str:
        return f"batch {self.batch}, prompt {self.prompt}, gen {self.gen}, {self.steps} steps"


@dataclass(frozen=True)
class Kind:
    """What a step computes. carried: rows; picked: rows that layers which pick recompute, work: rows times layers;
    reads: rows of the head; dense: no layer picks."""

    work: int
    carried: int
    picked: int
    reads: int
    dense: bool

    @classmethod
    def of(cls, tick: StepOutput) -> Kind:
        """Of a step that was done."""
        reads = 0 if tick.predictions is None else len(tick.predictions.flat)
        return cls(sum(tick.work), sum(tick.counts), sum(tick.picked), reads, tick.rules == DENSE)


def begin(model: Transformer, spec: str, case: Case) -> State:
    """A batch about to run, never stopped early. Greedy runs with the order that it needs."""
    canvas = lay_out([[5] * case.prompt] * case.batch, case.gen, model.config.mask_id, range(case.batch))
    each = torch.ones(case.batch, dtype=torch.int64)
    blocks = case.gen // BLOCK if spec.startswith("fast-") else 1
    decoder = make_decoder("random" if "greedy" in spec else "confidence")
    return State(
        model=model,
        sequences=SequenceState.new(canvas, decoder.commit_order(canvas)),
        memory=model.new_kv_cache(case.batch, case.prompt + case.gen),
        policy=make_cache(spec),
        decoder=decoder,
        sampling=Sampling(torch.zeros(case.batch), None, None, greedy=True),
        schedule=Schedule(each * (case.gen // blocks), each * blocks, each * (case.steps // blocks)),
        bucket=bucket_for(model.device, model.dtype),
    )


class Bare:
    """The bare forward of a kind of step: every row attends over all slots of one of `batch` sequences, every layer to
    keys of its own."""

    def __init__(self, model: Transformer, case: Case) -> None:
        self.model, self.batch, width = model, case.batch, case.prompt + case.gen
        self.memory = model.new_kv_cache(case.batch, width)

    @torch.inference_mode()
    def __call__(self, kind: Kind) -> None:
        """One forward."""
        model, carried, picked = self.model, self._at(kind.carried), self._at(kind.picked)
        x = F.embedding(torch.zeros(len(carried.slot), dtype=torch.int64), model.embedding)
        turn, own = (model.rotary.turn(at.slot) for at in (carried, picked))
        first, blocks, layers = len(model.blocks) if kind.dense else 1, model.blocks, self.memory.layers
        x = self._layers(blocks[:first], x, carried, turn, layers[:first])
        if not kind.dense:
            some, others = x[: len(picked.slot)], x[len(picked.slot) :]
            for block in blocks[first:] if len(others) else ():
                block.attention.value(block.norm(others, block.attn_norm))
            if len(some):
                some = self._layers(blocks[first:], some, picked, own, layers[first:])
            x = torch.cat((some, others))
        if kind.reads:
            model.logits(x[: kind.reads] if kind.reads <= len(x) else x)

    def _at(self, rows: int) -> PackedRows:
        """So many rows, as many of each sequence, at its first slots."""
        grid = torch.zeros(self.memory.shape, dtype=torch.bool)
        grid[:, : -(-rows // self.batch)] = True
        return pack(grid, grid.sum(1).tolist(), None)

    def _layers(
        self,
        blocks: Sequence[TransformerBlock],
        x: Tensor,
        at: PackedRows,
        turn: RotaryPhase,
        memories: Sequence[LayerCache],
    ) -> Tensor:
        """Without writing keys and values."""
        for block, memory in zip(blocks, memories, strict=True):
            h = block.norm(x, block.attn_norm)
            block.attention.value(h)
            q, _ = block.attention.qk(h, turn)
            y = block.attention.attend(q, *memory.kv, at).add_(x)
            x = block.mlp(y).add_(y)
        return x


@dataclass
class Clocked:
    """A model that keeps how long its forwards and heads took, in seconds."""

    inner: Transformer
    seconds: float = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def forward(self, *given: Any) -> Tensor:
        """The network's."""
        return self._timed(self.inner.forward, *given)

    def logits(self, x: Tensor) -> Tensor:
        """The network's."""
        return self._timed(self.inner.logits, x)

    def _timed(self, call: Callable[..., Tensor], *given: Any) -> Tensor:
        began = time.process_time()
        made = call(*given)
        self.seconds += time.process_time() - began
        return made


def seconds(work: Callable[[], object]) -> tuple[float, object]:
    """Processor time of a call, and its result."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def kinds_of(model: Transformer, spec: str, case: Case, stub: Stub) -> list[Kind]:
    """The kind of every step of a generation."""
    state, kinds = begin(model, spec, case), list[Kind]()
    state.model = stub
    while (tick := advance(state)) is not None:
        kinds.append(Kind.of(tick))
    return kinds


def chosen(kinds: Sequence[Kind]) -> set[int]:
    """Steps to time: evenly among the distinct amounts of work, the least and the most included; not the first step,
    which makes buffers."""
    by_work = {kind.work: step for step, kind in reversed(list(enumerate(kinds))) if step} | (
        {kinds[0].work: 0} if all(kind.work != kinds[0].work for kind in kinds[1:]) else {}
    )
    order = sorted(by_work)
    places = {round(i * (len(order) - 1) / max(MOST - 1, 1)) for i in range(MOST)}
    return {by_work[order[place]] for place in places}


@dataclass
class Times:
    """Processor seconds by work: of the engine, its own forwards in it, and bare forwards."""

    engine: dict[int, list[float]]
    forward: dict[int, list[float]]
    bare: dict[int, list[float]]

    def total(self, which: str, kinds: Sequence[Kind]) -> float:
        """Of a whole generation: medians, and straight lines between them."""
        found: dict[int, list[float]] = getattr(self, which)
        known = sorted((work, statistics.median(some)) for work, some in found.items())
        return sum(_between(known, kind.work) for kind in kinds)

    @property
    def worst(self) -> float:
        """The largest engine / bare among the kinds."""
        return max(statistics.median(self.engine[w]) / statistics.median(self.bare[w]) for w in self.engine)


def _between(known: Sequence[tuple[int, float]], work: int) -> float:
    """Straight lines between the known points, flat beyond them."""
    after = next((i for i, (at, _) in enumerate(known) if at >= work), len(known))
    if after in (0, len(known)) or known[after][0] == work:
        return known[min(after, len(known) - 1)][1]
    (low, first), (high, last) = known[after - 1 : after + 1]
    return first + (last - first) * (work - low) / (high - low)


def timed(state: State, model: Transformer, bare: Bare, repeats: int, times: Times) -> None:
    """Time the next step several times from the same point, and its bare forward, in turn: as in a generation, a step
    comes right after another forward. The first of each does not count: a new shape's products build their kernels."""
    for repeat in range(repeats + 1):
        clocked = Clocked(model)
        same = again(state, clocked)
        engine, tick = seconds(lambda s=same: advance(s))  # type: ignore[misc]
        kind = Kind.of(tick)  # type: ignore[arg-type]
        taken, _ = seconds(lambda k=kind: bare(k))  # type: ignore[misc]
        if repeat:
            times.engine.setdefault(kind.work, []).append(engine)
            times.forward.setdefault(kind.work, []).append(clocked.seconds)
            times.bare.setdefault(kind.work, []).append(taken)


def measure(
    model: Transformer,
    spec: str,
    case: Case,
    kinds: Sequence[Kind],
    repeats: int,
    shared: dict[int, Times],
    stub: Stub,
) -> Times:
    """Time the chosen steps of one policy, between steps of the stub. shared: what was timed of steps that compute
    every row, which are the same whatever the policy."""
    bare, times, everything = Bare(model, case), Times({}, {}, {}), max(shared, default=0)
    picked, state = chosen(kinds), begin(model, spec, case)
    state.model = stub
    for step in range(max(picked) + 1):
        if step in picked and kinds[step].work != everything:
            timed(state, model, bare, repeats, times)
        advance(state)
    for work, known in shared.items():
        if any(kind.work == work for kind in kinds):
            for mine, its in zip(vars(times).values(), vars(known).values(), strict=True):
                mine[work] = its[work]
    return times


def table(
    log: TextIO, width: int, dtype: str, case: Case, policies: Sequence[str], repeats: int, compiled: bool
) -> None:
    """All policies on one case."""
    config = shape(width, 8, width // 64, width * 43 // 16, 2048)
    plain = random_model(config, getattr(torch, dtype))
    model = choose_backend(plain, plain.device, compile=compiled).network
    assert isinstance(model, Transformer)
    stub = Stub(model)
    shared: dict[int, Times] = {}
    base: tuple[float, float, int] | None = None
    built = " compiled," if compiled else ""
    print(
        f"\n**{width} wide, 8 layers, {dtype},{built} {case}**\n\n| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}"
    )
    for spec in dict.fromkeys(("none", *policies)):
        kinds = kinds_of(model, spec, case, stub)
        times = measure(model, spec, case, kinds, repeats, shared, stub)
        if spec == "none":
            shared[kinds[-1].work] = times
        engine, forward, bare = (times.total(which, kinds) for which in ("engine", "forward", "bare"))
        rows = sum(kind.work for kind in kinds)
        base = base or (engine, bare, rows)
        gain, bare_gain = base[0] / engine, base[1] / bare
        print(
            f"| `{spec}` | {1000 * engine / len(kinds):.1f} | {engine / bare:.3f} | {times.worst:.3f} | "
            f"{forward / engine:.1%} | {base[2] / rows:.2f}x | {bare_gain:.2f}x | "
            f"{gain:.2f}x | {gain / bare_gain:.3f} |",
            flush=True,
        )
        record = {
            "width": width,
            "dtype": dtype,
            "compiled": compiled,
            **vars(case),
            "cache": spec,
            "steps_run": len(kinds),
            "rows": rows,
        }
        print(json.dumps(record | vars(times)), file=log, flush=True)


def main() -> None:
    """Every case asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompts", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--gen", type=int, default=256)
    parser.add_argument("--steps", type=int, help="default: as many as gen")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--cache", action="append", help="default: every policy")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="with what `--compile` builds, of bare forwards too")
    parser.add_argument("--out", default="bare.jsonl", help="every measurement is appended here")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with open(given.out, "a", encoding="utf-8") as log:
        for dtype in given.dtypes:
            for width in given.widths:
                for batch in given.batches:
                    for prompt in given.prompts:
                        case = Case(batch, prompt, given.gen, given.steps or given.gen)
                        table(log, width, dtype, case, given.cache or POLICIES, given.repeats, given.compile)


if __name__ == "__main__":
    main()
