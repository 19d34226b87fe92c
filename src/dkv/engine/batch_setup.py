"""What a batch is made of: what its requests have in common, its buffers, and from its sequences the state that a step
takes."""

from __future__ import annotations

import math
from collections import abc
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dkv.core.canvas import SequenceState, lay_out
from dkv.core.dtypes import named_dtype
from dkv.core.guidance import Guidance
from dkv.core.kv_cache import KVCache
from dkv.core.layer_rules import Rules
from dkv.core.logits_processors import logits_processors_of
from dkv.core.loop import Schedule, State
from dkv.core.model import Model
from dkv.core.packing import Bucket
from dkv.core.registry import is_own, name_of
from dkv.core.sampling import Sampling
from dkv.engine.per_sequence import CallLimits, PerSequenceDecoder, PerSequencePolicy, PolicyCalls
from dkv.engine.sequence import Sequence
from dkv.engine.step_views import canvas_copy, checked
from dkv.engine.watchdog import bounded
from dkv.errors import RequestError
from dkv.params import ResolvedParams

__all__ = ["BatchBuffers", "BatchKey", "BatchSetup"]


_MOST_BUFFERS = 16
"""Feature buffers that a layer may keep, each as large as the model's width."""


@dataclass(frozen=True)
class BatchKey:
    """What the sequences of a batch have in common.

    A rule may be another package's code, and a key is used where nothing may fail: so keys are equal where their rules
    are one object, and the buffers are asked for once. Raises RequestError for buffers that are none."""

    width: int
    """Slots of a sequence; 0 = as many as the longest needs."""
    rules: Rules = field(compare=False)
    """Of the layers."""
    guided: bool
    """Each has an unconditional row."""
    dtype: torch.dtype
    """Of the cache."""
    buffers: tuple[tuple[str, ...], tuple[str, ...]] = field(init=False, compare=False, repr=False)
    """Names of the buffers that the rules keep, of the first layer and of the others."""
    is_own: bool = field(init=False, compare=False, repr=False)
    """Whether no layer follows another package's rules."""
    _rules: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rules", id(self.rules))
        theirs = [rule for rule in (self.rules.first, self.rules.rest) if rule is not None and not is_own(rule)]
        object.__setattr__(self, "is_own", not theirs)
        object.__setattr__(self, "buffers", self.rules.buffers)
        for names in self.buffers:
            if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
                raise RequestError("the buffers of a layer rule must be a tuple of names")
            if len(names) > _MOST_BUFFERS:
                raise RequestError(f"the buffers of a layer rule must be at most {_MOST_BUFFERS}, not {len(names)}")

    @classmethod
    def of(cls, settings: ResolvedParams, rules: Rules, width: int, model: Model) -> BatchKey:
        """That of a sequence with such settings and rules, in slots of such a width."""
        dtype = model.dtype if settings.cache_dtype is None else named_dtype("cache_dtype", settings.cache_dtype)
        return cls(width, rules, settings.cfg_scale > 0, dtype)

    @property
    def rows(self) -> int:
        """Rows of a sequence."""
        return 2 if self.guided else 1


class BatchBuffers:
    """Buffers for a number of sequences of one key. memory: None while there are none."""

    def __init__(self, model: Model, key: BatchKey) -> None:
        self._model, self._key = model, key
        self.memory: KVCache | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return 0 if self.memory is None else self.memory.nbytes

    @property
    def size(self) -> tuple[int, int]:
        """How many sequences they can hold, and how long ones."""
        if self.memory is None:
            return 0, 0
        rows, width = self.memory.shape
        return rows // self._key.rows, width

    def cost(self, width: int) -> int:
        """Bytes for a sequence of so many positions."""
        buffers = [buffer for layer in self._empty(width).layers for buffer in layer.buffers.values()]
        return self._key.rows * sum(math.prod(b.shape[1:]) * b.element_size() for b in buffers)

    def resize(self, sequences: int, width: int, used: int) -> None:
        """Room for so many sequences; what the first `used` hold is kept. Layer by layer, so that old and new buffers
        are never held both; where that fails, `memory` is None, and the sequences are to be begun again."""
        old, self.memory = self.memory, None
        new, kept = self._empty(width), used * self._key.rows
        for number, layer in enumerate(new.layers):
            for name, empty in layer.buffers.items():
                layer.buffers[name] = empty.new_zeros((sequences * self._key.rows, *empty.shape[1:]))
                if old is not None and kept:
                    before = old.layers[number].buffers.pop(name)
                    held = min(before.shape[2], empty.shape[2]) - 1
                    layer.buffers[name][:kept, :, :held] = before[:kept, :, :held]
        self.memory = new

    def part(self, sequences: int, width: int, first: int = 0) -> KVCache:
        """A view of the first `width` slots of so many sequences, from `first` on."""
        if self.memory is None:
            raise RuntimeError("a batch without buffers has no state")
        return self.memory.part(sequences * self._key.rows, width, first * self._key.rows)

    def remove(self, place: int, last: int, length: int) -> None:
        """Clear the place of a sequence, and move the `last` one, of so many positions, there."""
        if self.memory is None:
            return
        for part in range(self._key.rows):
            target, source = place * self._key.rows + part, last * self._key.rows + part
            self.memory.clear(target)
            if place != last:
                self.memory.move(source, target, length)
                self.memory.clear(source)

    def _empty(self, width: int) -> KVCache:
        """A memory of no rows, for the shapes of its buffers."""
        memory = self._model.new_kv_cache(0, width, self._key.dtype)
        memory.keep(self._key.buffers, self._model.config.width)
        return memory


@dataclass(frozen=True)
class BatchSetup:
    """What a batch is made of, its sequences aside."""

    model: Model
    key: BatchKey
    bucket: Bucket
    """How row counts are rounded up."""
    limits: CallLimits
    """Of calls into other packages' code."""

    def begin(self, sequence: Sequence) -> SequenceState:
        """Where a sequence stands before its first step."""
        request, decoder = sequence.request, sequence.decoder
        canvas = lay_out(
            [request.prompt],
            request.settings.gen_length,
            self.model.config.mask_id,
            [request.seed],
            self.model.device,
            request.number,
            self.key.guided,
            [request.given],
        )
        if is_own(decoder):
            return SequenceState.new(canvas, decoder.commit_order(canvas))
        order = bounded(lambda: decoder.commit_order(canvas_copy(canvas)), self.limits.seconds)
        shape, device = tuple(canvas.tokens.shape), canvas.tokens.device
        name = f"decoder={name_of(decoder)!r}: commit_order"
        return SequenceState.new(canvas, checked(order, name, shape, torch.int64, device))

    def state(self, sequences: abc.Sequence[Sequence], standing: SequenceState, memory: KVCache) -> State:
        """The state of some sequences, in the order of their rows in `standing`."""
        rows = [sequence for sequence in sequences for _ in range(self.key.rows)]
        settings = [row.settings for row in rows]
        calls = PolicyCalls(self.key.rows, len(sequences), self.key.rules, self.limits)
        fills = [not s.stop_at_eos for s in settings]
        canvas, device, stop_ids = standing.canvas, self.model.device, rows[0].stop_ids
        scale = torch.tensor([s.cfg_scale for s in settings], dtype=torch.float32, device=device)
        return State(
            model=self.model,
            sequences=standing,
            memory=memory,
            policy=PerSequencePolicy([row.policy for row in rows], calls, device),
            decoder=PerSequenceDecoder(
                [row.decoder for row in rows], [row.state_size for row in rows], standing.order, calls
            ),
            sampling=_sampling_of(settings, self.model.config.vocab, device),
            schedule=_schedule_of(rows, device),
            stop_ids=stop_ids,
            fills=torch.tensor(fills, device=device) if any(fills) else None,
            logits_processors=logits_processors_of(settings, canvas.prompt, stop_ids),
            bucket=self.bucket,
            guidance=Guidance(canvas, scale) if self.key.guided else None,
            audit=self.limits.audit,
            raises_not_finite=False,
        )


def _schedule_of(rows: abc.Sequence[Sequence], device: torch.device) -> Schedule:
    settings = [row.settings for row in rows]
    grows = [s.grow for s in settings]
    return Schedule(
        block_length=torch.tensor([s.block_length for s in settings], device=device),
        blocks=torch.tensor([s.blocks for s in settings], device=device),
        steps=torch.tensor([s.steps // s.blocks for s in settings], device=device),
        adaptive=torch.tensor([row.adaptive for row in rows], device=device),
        grows=torch.tensor(grows, device=device) if any(grows) else None,
    )


def _sampling_of(settings: abc.Sequence[ResolvedParams], vocab: int, device: torch.device) -> Sampling:
    """How sequences under `settings` draw their tokens. A filter that keeps everything stands in where only others have
    one; top_p=1 is none, lest rounding drop the tail."""

    def each(values: list[float | None], keeps_all: float) -> Tensor | None:
        if all(value is None for value in values):
            return None
        return torch.tensor([keeps_all if value is None else value for value in values], device=device)

    return Sampling(
        torch.tensor([float(s.temperature) for s in settings], device=device),
        each([None if s.top_p == 1 else s.top_p for s in settings], torch.inf),
        each([s.top_k for s in settings], vocab),
        greedy=all(s.temperature == 0 for s in settings),
    )
