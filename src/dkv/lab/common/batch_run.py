"""One batch of prompts from start to end together, stepped from outside: what measurements look into between steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch

from dkv.core.canvas import lay_out
from dkv.core.guidance import Guidance
from dkv.core.logits_processors import logits_processors_of
from dkv.core.loop import State, StepOutput, advance, finish, not_finite
from dkv.core.model import Model
from dkv.core.packing import Bucket
from dkv.core.torch_settings import shielded
from dkv.engine.batch_setup import frame_of, sampling_of, schedule_of
from dkv.engine.sequence import Track
from dkv.outputs import Frame, Generation
from dkv.params import SamplingParams
from dkv.tokenizer import Tokenizer

__all__ = ["Run"]


class Run:
    """A batch of prompts (token ids) being generated under one Settings, from start to end together. given: for each
    prompt what follows it if it is not all masked, as in `lay_out`; for all or for none."""

    @shielded()
    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer | None,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        settings: SamplingParams,
        *,
        cache_dtype: torch.dtype | None,
        bucket: Bucket,
        version: str,
        trace: bool = False,
        audit: bool = False,
        first_request: int = 0,
        given: Sequence[Sequence[int | None]] = (),
    ) -> None:
        config, device = model.config, model.device
        self._tracks = [
            Track(config, tokenizer, list(prompt), settings, seed, version, trace, bool(given))
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        self._trace, self._stops = trace, bool(settings.stop and tokenizer)
        guided = settings.cfg_scale > 0
        canvas = lay_out(prompts, settings.gen_length, config.mask_id, seeds, device, first_request, guided, given)
        batch, width = canvas.tokens.shape
        self.stop_ids = self._tracks[0].stop_ids
        self.state = State(
            model=model,
            canvas=canvas,
            memory=model.new_kv_cache(batch, width, cache_dtype),
            policy=settings.cache,
            decoder=settings.decoder,
            sampling=sampling_of([settings] * batch, config.vocab, device),
            schedule=schedule_of(settings, batch, device, bool(given)),
            stop_ids=self.stop_ids if settings.stop_at_eos else (),
            logits_processors=logits_processors_of([settings] * batch, canvas.prompt, self.stop_ids),
            bucket=bucket,
            guidance=Guidance(canvas, settings.cfg_scale) if guided else None,
            audit=audit,
        )
        self._seconds = 0.0
        self._timed = [False] * len(self._tracks)

    def ticks(self) -> Iterator[StepOutput]:
        """Step until every sequence is done, keeping count. What the consumer does between steps is not timed."""
        while (tick := self._step()) is not None:
            yield tick
        self._clock_out([True] * len(self._tracks))

    @shielded()
    def _step(self) -> StepOutput | None:
        began = time.perf_counter()
        tick = advance(self.state)
        if tick is not None:
            self._count(tick)
            if self._stops:
                self._stop_at_texts()
        self._seconds += time.perf_counter() - began
        return tick

    def _count(self, tick: StepOutput) -> None:
        self._clock_out(tick.done[: len(self._tracks)])
        for row, track in enumerate(self._tracks):
            own = slice(row, None, len(self._tracks))  # its own row and its guide's
            track.note(tick.counts[row], sum(tick.work[own]), sum(tick.lengths[own]))
        if self._trace:
            fixed = tick.committed.nonzero().tolist()
            for row, track in enumerate(self._tracks):
                if not tick.done[row]:
                    track.fix([p for r, p in fixed if r == row], self.state.canvas.tokens[row])

    def _clock_out(self, done: list[bool]) -> None:
        """A finished sequence ended with the step before: take its time once."""
        for row, is_done in enumerate(done):
            if is_done and not self._timed[row]:
                self._tracks[row].seconds, self._timed[row] = self._seconds, True

    def _stop_at_texts(self) -> None:
        """Finish the sequences whose settled beginning holds a stop text."""
        canvas, hits = self.state.canvas, torch.zeros_like(self.state.done)
        tokens, unfixed = canvas.tokens.tolist(), canvas.unfixed.tolist()
        for row, track in enumerate(self._tracks):
            hits[row] = track.find_stop(track.settled(tokens[row], unfixed[row])) is not None
        finish(self.state, hits & ~self.state.done)

    def _response(self, row: int) -> list[int]:
        ids: list[int] = self.state.canvas.tokens[row, self._tracks[row].response].tolist()
        return ids

    def frame(self, tick: StepOutput, row: int = 0) -> Frame:
        """What one sequence looks like after `tick`."""
        return frame_of(self.state, tick, row, self._tracks[row])

    def results(self) -> list[Generation]:
        """Every sequence's result, in the order of the prompts. Raises RequestError where logits were not finite."""
        if bool(self.state.broken.any()):
            raise not_finite(self.state.model.dtype)
        return [track.result(self._response(row)) for row, track in enumerate(self._tracks)]
