"""A generation timed by a few of its steps, each weighted by how many are like it.

The generation is carried through by a model that computes nothing and answers at random; its steps are sorted into
kinds by their row counts, and a few of each kind are taken again, several times, by the real network.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dkv.caches import make_cache
from dkv.core.canvas import SequenceState, lay_out
from dkv.core.kv_cache import KVCache
from dkv.core.layer_rules import Rules
from dkv.core.loop import Schedule, State, StepOutput, advance
from dkv.core.model import Model, ModelConfig
from dkv.core.packing import Bucket, PackedRows
from dkv.core.sampling import Sampling
from dkv.decoders import make_decoder
from dkv.lab.bench.flops import work_of
from dkv.lab.bench.roofline import Rates, bound_seconds, synchronize
from dkv.lm import DiffusionLM

__all__ = ["Case", "Kind", "Stub", "again", "kinds_of", "measure"]

_REHEARSALS = 3
"""Runs of a step before it is timed: a graph is recorded at the second."""
_RUNS = 5
_WORDS = 8
"""Vocabulary of the model that computes nothing."""


@dataclass
class Stub:
    """A model that computes nothing: hidden states of zeros, logits at random over a few tokens."""

    inner: Model
    config: ModelConfig = field(init=False)

    def __post_init__(self) -> None:
        self.config = replace(self.inner.config, vocab=_WORDS, mask_id=_WORDS - 1, eos_ids=(_WORDS - 2,))
        self._draw = torch.Generator(self.device).manual_seed(0)

    @property
    def device(self) -> torch.device:
        """The network's."""
        return self.inner.device

    @property
    def dtype(self) -> torch.dtype:
        """The network's."""
        return self.inner.dtype

    def new_kv_cache(self, batch: int, width: int, dtype: torch.dtype | None = None) -> KVCache:
        """The network's, since it takes some of the steps."""
        return self.inner.new_kv_cache(batch, width, dtype)

    def forward(self, tokens: Tensor, at: PackedRows, memory: KVCache, rules: Rules) -> Tensor:
        """Zeros [N, 1]."""
        return torch.zeros(len(tokens), 1, device=self.device)

    def logits(self, x: Tensor) -> Tensor:
        """Noise [M, 8]."""
        return torch.randn(len(x), _WORDS, device=self.device, generator=self._draw)


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    shape: str
    way: str
    batch: int
    prompt: int
    gen: int
    block: int
    cache: str


@dataclass
class Kind:
    """Steps with about as many rows: their indices, and of those taken by the network the seconds and the bounds."""

    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    bounds: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


def begin(model: Model, case: Case, bucket: Bucket) -> State:
    """A batch of equal prompts, a step for each token, never stopped early; Greedy with the order that it needs."""
    each = [case.batch, case.prompt, case.gen]
    canvas = lay_out([[1] * each[1]] * each[0], each[2], model.config.mask_id, range(each[0]), model.device)

    def full(value: int) -> Tensor:
        return torch.full((case.batch,), value, device=model.device)

    decoder = make_decoder("random" if case.cache.startswith("dkv-greedy") else model.config.default_decoder)
    return State(
        model=model,
        sequences=SequenceState.new(canvas, decoder.commit_order(canvas)),
        memory=model.new_kv_cache(case.batch, case.prompt + case.gen),
        policy=make_cache(case.cache),
        decoder=decoder,
        sampling=Sampling(torch.zeros(case.batch, device=model.device), None, None, greedy=True),
        schedule=Schedule(full(case.block), full(case.gen // case.block), full(case.block)),
        bucket=bucket,
    )


def kinds_of(lm: DiffusionLM, case: Case) -> list[Kind]:
    """The steps of a generation by kind: row counts that round up to the same eighth of a power of two."""
    state, kinds = begin(Stub(lm.model), case, lm.bucket), defaultdict[tuple[int, int, bool], Kind](Kind)
    for index in range(case.gen):
        tick = advance(state)
        if tick is None:
            break
        kind = _rounded(sum(tick.counts)), _rounded(sum(tick.picked)), tick.predictions is None
        kinds[kind].steps.append(index)
    return list(kinds.values())


def _rounded(rows: int) -> int:
    step = max((1 << rows.bit_length()) // 16, 1)
    return -(-rows // step) * step


def measure(lm: DiffusionLM, case: Case, rates: Rates, samples: int) -> list[Kind]:
    """The kinds, `samples` steps of each (first, last and between) timed."""
    kinds, model = kinds_of(lm, case), lm.model
    wanted = {index: kind for kind in kinds for index in _spread(kind.steps, samples)}
    state, config, slots = begin(Stub(model), case, lm.bucket), model.config, case.batch * (case.prompt + case.gen)
    for index in range(max(wanted) + 1):
        if index in wanted:
            tick, seconds = timed(state, model)
            work = work_of(tick, tick.lengths, config.layers)
            kind = wanted[index]
            kind.seconds += seconds
            kind.bounds.append(bound_seconds(config, work, rates, slots, model.dtype.itemsize))
            kind.rows.append(sum(tick.work) // config.layers)
        advance(state)
    return kinds


def _spread(steps: Sequence[int], samples: int) -> list[int]:
    if samples == 1 or len(steps) == 1:
        return [steps[len(steps) // 2]]
    count = min(samples, len(steps))
    return [steps[round(n * (len(steps) - 1) / (count - 1))] for n in range(count)]


def again(state: State, model: Model) -> State:
    """The same point of a generation once more, on the same buffers, with this model."""
    other = copy(state)
    other.model, other.sequences, other.memory = model, state.sequences.snapshot(), copy(state.memory)
    return other


def timed(state: State, model: Model) -> tuple[StepOutput, list[float]]:
    """The next step, taken by the network several times from the same point: what it did, and its seconds."""
    seconds = []
    for number in range(_REHEARSALS + _RUNS):
        same = again(state, model)
        synchronize(model.device)
        began = time.perf_counter()
        tick = advance(same)
        synchronize(model.device)
        if number >= _REHEARSALS:
            seconds.append(time.perf_counter() - began)
    if tick is None:
        raise RuntimeError("a step of a generation that had ended was asked for")
    return tick, seconds
