"""One batch of requests in the engine's own loop, stepped from outside: what measurements look into between steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch

from dkv.core.loop import State, StepOutput
from dkv.core.model import Model, shielded
from dkv.core.packing import Bucket
from dkv.core.policy import rules_of
from dkv.core.registry import first_alike
from dkv.engine.batch_setup import BatchKey
from dkv.engine.per_sequence import CallLimits
from dkv.engine.running_batch import RunningBatch
from dkv.engine.sequence import Request
from dkv.engine.sequence import Sequence as RunningSequence
from dkv.lm import DiffusionLM
from dkv.outputs import Generation
from dkv.params import ResolvedParams
from dkv.tokenizer import Tokenizer

__all__ = ["EngineBatch", "batch_of", "requests_of"]


def requests_of(prompts: Sequence[Sequence[int]], seeds: Sequence[int], settings: ResolvedParams) -> list[Request]:
    """Requests for prompts (token ids) under the same settings, of which only the end is asked for."""
    return [
        Request(tuple(ids), settings, seed, number, deltas=False)
        for number, (ids, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]


def batch_of(
    lm: DiffusionLM,
    prompts: Sequence[Sequence[int]],
    settings: ResolvedParams,
    seeds: Sequence[int] | None = None,
    *,
    leave: bool = False,
) -> EngineBatch:
    """Prompts (token ids) on a loaded model, under the same settings. seeds: None = 0 each."""
    requests = requests_of(prompts, [0] * len(prompts) if seeds is None else seeds, settings)
    return EngineBatch(lm.model, lm.tokenizer, requests, lm.bucket, leave=leave)


class EngineBatch:
    """Requests that begin together. leave: a sequence that is done leaves, as in an engine, so that rows move; else
    all rows stay where they are until all are done."""

    @shielded()
    @torch.inference_mode()
    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer | None,
        requests: Sequence[Request],
        bucket: Bucket,
        *,
        leave: bool = False,
        audit: bool = False,
    ) -> None:
        """All requests have settings under which they can share forwards. Raises what a request fails with."""
        settings = requests[0].settings
        policies, decoders = [r.settings.cache for r in requests], [r.settings.decoder for r in requests]
        sequences = [
            RunningSequence(
                number,
                request,
                model.config,
                tokenizer,
                first_alike(request.settings.cache, policies[:number]),
                first_alike(request.settings.decoder, decoders[:number]),
            )
            for number, request in enumerate(requests)
        ]
        key = BatchKey.of(settings, rules_of(settings.cache), 0, model)
        self._batch = RunningBatch(model, key, bucket, CallLimits(audit=audit))
        self._batch.resize(len(requests), max(request.length for request in requests))
        self._leave, self._sequences, self._results = leave, sequences, dict[int, Generation]()
        self._done = set[int]()
        self._output: StepOutput | None = None
        self._batch.on_step = self._see
        self.stop_ids = sequences[0].stop_ids
        self.cache_bytes = self._batch.buffers.nbytes
        for refused in self._batch.join(sequences):
            if refused.error is not None:
                raise refused.error

    @property
    def state(self) -> State:
        """Where the sequences stand. Only while there are any."""
        if self._batch.state is None:
            raise RuntimeError("all sequences have left")
        return self._batch.state

    @shielded()
    @torch.inference_mode()
    def step(self) -> StepOutput | None:
        """One denoising step; None where none was left. Raises what a request failed with."""
        if self._batch.state is None:
            return None
        began = time.perf_counter()
        outcomes = self._batch.step()
        output, self._output = self._output, None
        passed, leaving = time.perf_counter() - began, set[int]()
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
            sequence = outcome.sequence
            if sequence.request_id not in self._done:
                sequence.seconds += passed
            if outcome.last:
                self._done.add(sequence.request_id)
                leaving.add(sequence.request_id)
        if self._leave and leaving:
            self._results |= {n: self._result(self._sequences[n]) for n in leaving}
            self._batch.leave(leaving)
        return output

    def steps(self) -> Iterator[StepOutput]:
        """Step until every sequence is done. What the consumer does between steps is not timed."""
        while (output := self.step()) is not None:
            yield output

    def results(self) -> list[Generation]:
        """Every sequence's result, in the order of the requests, once all are done."""
        return [self._results.get(n) or self._result(one) for n, one in enumerate(self._sequences)]

    def _result(self, sequence: RunningSequence) -> Generation:
        return sequence.result(self._batch.response(sequence))

    def _see(self, output: StepOutput) -> None:
        self._output = output
