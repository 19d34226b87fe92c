"""From the sequences of a batch to the state that a step takes: schedule, sampling, logits processors, policies."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from dkv.core.canvas import lay_out
from dkv.core.guidance import Guidance
from dkv.core.kv_cache import KVCache
from dkv.core.logits_processors import logits_processors_of
from dkv.core.loop import Schedule, State
from dkv.core.model import Model
from dkv.core.packing import Bucket
from dkv.core.sampling import Sampling
from dkv.core.sequence_state import SequenceState
from dkv.engine.batch_key import BatchKey
from dkv.engine.per_sequence import PerSequenceDecoder, PerSequencePolicy, numbered
from dkv.engine.policy_calls import CallLimits, PolicyCalls
from dkv.engine.request_errors import is_own, name_of
from dkv.engine.sequence import Sequence
from dkv.engine.step_views import canvas_copy, checked
from dkv.engine.watchdog import bounded
from dkv.params import SamplingParams

__all__ = ["BatchSetup"]


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
            policy=_policy_of(rows, calls, device),
            decoder=_decoder_of(rows, standing.order, calls),
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


def _policy_of(rows: abc.Sequence[Sequence], calls: PolicyCalls, device: torch.device) -> PerSequencePolicy:
    policies, numbers = numbered([row.policy for row in rows])
    return PerSequencePolicy(policies, torch.tensor(numbers, device=device), calls)


def _decoder_of(rows: abc.Sequence[Sequence], order: Tensor, calls: PolicyCalls) -> PerSequenceDecoder:
    decoders, numbers = numbered([row.decoder for row in rows])
    sizes = tuple(rows[numbers.index(number)].state_size for number in range(len(decoders)))
    return PerSequenceDecoder(decoders, torch.tensor(numbers, device=order.device), order, calls, sizes)


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


def _sampling_of(settings: abc.Sequence[SamplingParams], vocab: int, device: torch.device) -> Sampling:
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
