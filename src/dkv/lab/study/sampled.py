"""What a cache costs at a length, beside no cache: both composed of sampled steps, taken in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dkv.caches import make_cache
from dkv.core.cache_size import cache_bytes
from dkv.core.kv_cache import KVCache
from dkv.lab.bench.instruments import peak_bytes
from dkv.lab.bench.shapes import named_shape, random_model
from dkv.lab.study.steps import Points, Sample, points_of, take
from dkv.layers.transformer import Transformer
from dkv.loading import find_device

__all__ = ["SHAPE", "Taken", "held_bytes", "random_weights", "rounds_at", "side_by_side"]

SHAPE = "small,width=128,layers=4,heads=1,mlp_width=384,vocab=512,context=32768"
"""A small LLaDA with heads of 128 and an MLP three times as wide as the model, as LLaDA-8B's are. The attention of so
narrow a model weighs at 1,024 positions what LLaDA-8B's does at 32,768."""

_LONG = 4096


@dataclass(frozen=True)
class Taken:
    """points: the sampled steps of both, by kind; none_peak, peak: bytes that the steps of no cache, and of the cache,
    held at their highest beside the weights, buffers included (None where the system does not tell)."""

    points: Points
    none_peak: int | None
    peak: int | None


def random_weights(spec: str, device: str) -> Transformer:
    """A model of a shape in float32. Raises SpecError, and SettingError for the device."""
    return random_model(named_shape(spec), torch.float32, device=find_device(device))


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
        self.times.append(take(self.samples, self._model, memory))
