"""The cost of a whole generation from a few of its steps, for lengths at which all of them would take hours.

1. The loop runs once with a model that says nothing, which tells what each step computes; text is then decided from
   left to right (see `dkv.lab.bench.replay`).
2. Steps that compute alike are a kind: all positions or some, with what layers pick for themselves. Of each kind at
   most three steps are kept: the cheapest, the dearest, and one near the mean, by operations.
3. Those are taken for real, each several times from the very state in which it was kept, with random weights.
4. Every step then costs what the line through the nearest two of its kind gives at its operations; in proportion to
   them where its kind has one. The whole is the sum.

What this leaves out is what lies between steps: nothing but a counter.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from dkv.caches import make_cache
from dkv.core.cache_size import cache_bytes
from dkv.core.kv_cache import KVCache
from dkv.core.loop import State, StepOutput, advance
from dkv.core.model import Model, ModelConfig
from dkv.lab.bench.flops import LayerWork, Work, flops, work_of
from dkv.lab.bench.instruments import peak_bytes
from dkv.lab.bench.replay import silent_run
from dkv.lab.bench.roofline import synchronize
from dkv.layers.transformer import Transformer, bucket_for
from dkv.params import ResolvedParams

__all__ = [
    "SHAPE", "Outline", "Points", "Sample", "StepKind", "compose", "held_bytes", "outline", "points_of", "rounds_at",
    "seconds_of", "side_by_side",
]  # fmt: skip

SHAPE = "small,width=128,layers=4,heads=1,mlp_width=384,vocab=512,context=32768"
"""A small LLaDA with heads of 128 and an MLP three times as wide as the model, as LLaDA-8B's are. The attention of so
narrow a model weighs at 1,024 positions what LLaDA-8B's does at 32,768."""

_LONG = 4096

_APART = 1.2
"""Steps of a kind that are kept differ in operations by this factor at least."""

_ENOUGH = 0.1
"""Seconds that a step is taken for, each time that it is its turn."""


@dataclass(frozen=True)
class StepKind:
    """Steps that compute alike."""

    whole: bool  # every position is carried
    picking: tuple[LayerWork, ...] = ()  # the layers' work where they pick rows for themselves


@dataclass(frozen=True)
class Sample:
    """A step to be taken."""

    kind: StepKind
    flops: int
    state: State  # before it, of a silent model


@dataclass
class Outline:
    """A generation's steps."""

    config: ModelConfig
    works: Counter[tuple[StepKind, Work]] = field(default_factory=Counter)  # how many there are
    samples: list[Sample] = field(default_factory=list)  # the steps to take

    @property
    def counts(self) -> Counter[tuple[StepKind, int]]:
        """How many steps there are of each kind and number of operations."""
        counts: Counter[tuple[StepKind, int]] = Counter()
        for (kind, work), count in self.works.items():
            counts[kind, flops(self.config, work)] += count
        return counts

    @property
    def rows(self) -> float:
        """Through an MLP in all steps, averaged over layers."""
        return sum(work.rows * count for (_, work), count in self.works.items()) / self.config.layers

    def flops_of(self, config: ModelConfig) -> int:
        """Operations of all steps of a model of another size, if its layers picked rows as these do."""
        total = 0
        for (_, work), count in self.works.items():
            first, rest = work.parts  # all layers but the first are alike
            total += flops(config, Work((first, replace(rest, layers=config.layers - 1)), work.reads)) * count
        return total


Points = Mapping[StepKind, Sequence[tuple[int, float]]]
"""Of each kind the operations and the seconds of the steps taken, by operations."""


def outline(config: ModelConfig, settings: ResolvedParams, prompt: int) -> Outline:
    """The steps of one generation after `prompt` tokens, its canvas filled."""
    run = silent_run(config, settings, prompt)
    found, kept = Outline(config), dict[StepKind, dict[int, State]]()
    while True:
        before = _copied(run.state)
        tick = run.step()
        if tick is None:
            break
        work = work_of(tick, [prompt + settings.gen_length], config.layers)
        kind, cost = _kind(tick, work), flops(config, work)
        found.works[kind, work] += 1
        mine = kept.setdefault(kind, {})
        if all(abs(math.log(cost / other)) >= math.log(_APART) for other in mine):
            mine[cost] = before
    found.samples = [Sample(kind, cost, mine[cost]) for kind, mine in kept.items() for cost in _three(list(mine))]
    return found


def _kind(tick: StepOutput, work: Work) -> StepKind:
    picking = tick.rules.first is not None or tick.rules.rest is not None
    return StepKind(bool(tick.rows.all()), work.parts if picking else ())


def _three(costs: Sequence[int]) -> list[int]:
    """The lowest, the highest, and the one nearest to their mean."""
    middle = statistics.fmean((min(costs), max(costs)))
    return sorted({min(costs), min(costs, key=lambda cost: abs(cost - middle)), max(costs)})


def _copied(state: State) -> State:
    """A state that moves on by itself; the buffers of keys and values are shared."""
    new = copy.copy(state)
    new.sequences, new.memory = state.sequences.snapshot(), copy.copy(state.memory)
    return new


def _settled(sample: Sample, model: Model, memory: KVCache) -> float:
    """Take a step on the model, again and again for a tenth of a second: the median, in seconds of the processor, or of
    the wall clock on another device. What `memory` holds does not matter to the cost."""
    times: list[float] = []
    while sum(times) < _ENOUGH:
        times.append(_timed(_real(sample.state, model, memory), model.device))
    return statistics.median_low(times)


def _real(silent: State, model: Model, memory: KVCache) -> State:
    """The state of a silent run with a model in its place."""
    state, device = _copied(silent), model.device
    state.model, state.bucket, state.memory = model, bucket_for(device, model.dtype), memory
    state.canvas.tokens = torch.where(state.canvas.masked, model.config.mask_id, state.canvas.tokens)
    if device.type == "cpu":
        return state
    for part in (state.sequences, state.canvas, state.schedule, state.sampling, state.policy, state.decoder):
        for name, value in vars(part).items():
            if isinstance(value, torch.Tensor):
                object.__setattr__(part, name, value.to(device))
    return state


def _timed(state: State, device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    synchronize(device)
    began = clock()
    advance(state)
    synchronize(device)
    return clock() - began


def points_of(samples: Sequence[Sample], rounds: Sequence[Sequence[float]]) -> Points:
    """The steps taken, each at its median over the rounds (the lower of the middle two)."""
    points: dict[StepKind, list[tuple[int, float]]] = {}
    for number, sample in enumerate(samples):
        middle = statistics.median_low(times[number] for times in rounds)
        points.setdefault(sample.kind, []).append((sample.flops, middle))
    return {kind: sorted(some) for kind, some in points.items()}


def seconds_of(points: Sequence[tuple[int, float]], cost: int) -> float:
    """What a step of so many operations takes, by the steps of its kind that were taken; never less than nothing."""
    if len(points) == 1:
        return points[0][1] * cost / points[0][0]
    right = min(next((i for i, (at, _) in enumerate(points) if at >= cost), len(points) - 1) or 1, len(points) - 1)
    (low, fast), (high, slow) = points[right - 1], points[right]
    return max(fast + (slow - fast) * (cost - low) / (high - low), 0.0)


def compose(counts: Mapping[tuple[StepKind, int], int], points: Points) -> float:
    """Seconds of all steps. Raises KeyError where no step of a kind was taken."""
    return sum(count * seconds_of(points[kind], cost) for (kind, cost), count in counts.items())


@dataclass(frozen=True)
class Taken:
    """The sampled steps of no cache and of a cache. Peaks are bytes that they held at their highest beside the weights,
    buffers included; None where the system does not tell."""

    points: Points  # of both, by kind
    none_peak: int | None
    peak: int | None


def held_bytes(model: Transformer, cache: str, prompt: int, gen: int) -> int:
    """Bytes of the cache's buffers for one sequence."""
    return cache_bytes(model.config, make_cache(cache), prompt, gen, 1, model.dtype)


def rounds_at(positions: int) -> int:
    """How often each step is taken: three times, twice where one takes seconds."""
    return 2 if positions >= _LONG else 3


def side_by_side(model: Transformer, none: Sequence[Sample], mine: Sequence[Sample], width: int, rounds: int) -> Taken:
    """Take the steps of no cache and a cache's samples in turn, whoever went first last time going last. A kind that
    both have (a refresh of all rows is a step of no cache) is taken once. width: positions."""
    own = [sample for sample in mine if sample.kind not in {other.kind for other in none}]
    sides = [_Side(none, model, width), _Side(own, model, width)]
    peaks = [peak_bytes(side.go, model.device) for side in sides]
    for number in range(1, rounds):
        for side in reversed(sides) if number % 2 else sides:
            side.go()
    points = {kind: some for side in sides for kind, some in points_of(side.samples, side.times).items()}
    both = peaks if len(own) < len(mine) else peaks[1:]
    return Taken(points, peaks[0], max((peak for peak in both if peak is not None), default=None))


class _Side:
    """The samples of one policy with a memory of their own, made when they are first taken; times: of each round."""

    def __init__(self, samples: Sequence[Sample], model: Transformer, width: int) -> None:
        self.samples, self.times = samples, list[list[float]]()
        self._model, self._width = model, width
        self._memory: KVCache | None = None

    def go(self) -> None:
        """Take them all once."""
        memory = self._memory = self._memory or self._model.new_kv_cache(1, self._width)
        self.times.append([_settled(sample, self._model, memory) for sample in self.samples])
