"""One batch from prompts to results: host-side bookkeeping around `advance`, and what a caller sees of a step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from dkv.core.canvas import lay_out
from dkv.core.guidance import Guidance
from dkv.core.logits_processors import Endings
from dkv.core.loop import Schedule, State, Tick, advance, finish, not_finite
from dkv.core.model import Model
from dkv.core.packing import Bucket
from dkv.core.sampling import Sampling
from dkv.core.torch_settings import shielded
from dkv.engine.sequence import Generation, Stats, Track
from dkv.params import Settings
from dkv.tokenizer import Tokenizer

__all__ = ["Frame", "Generation", "Run", "Stats", "endings_of", "frame_of", "sampling_of", "schedule_of"]


@dataclass(frozen=True)
class Frame:
    """The response of one sequence after a step.

    token_ids: committed tokens, candidates read at this step (provisional: they may change), the mask id elsewhere;
    committed, provisional: for each position whether it is one or the other; computed: response positions computed at
    this step (others came from the cache); prompt_computed: how many prompt rows were computed; text: of committed and
    provisional tokens together, up to the first end-of-text; committed_text: of committed tokens alone, "_" for each
    position that is still open, up to a committed end-of-text; both None without a tokenizer; generation: on the last
    frame only.
    """

    step: int
    token_ids: list[int]
    committed: list[bool]
    provisional: list[bool]
    computed: list[bool]
    prompt_computed: int
    text: str | None
    generation: Generation | None = None
    committed_text: str | None = None


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
        settings: Settings,
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
            memory=model.remember(batch, width, cache_dtype),
            policy=settings.cache,
            decoder=settings.decoder,
            sampling=sampling_of([settings] * batch, config.vocab, device),
            schedule=schedule_of(settings, batch, device, bool(given)),
            stop_ids=self.stop_ids if settings.stop_at_eos else (),
            endings=endings_of([settings] * batch, canvas.prompt, self.stop_ids),
            bucket=bucket,
            guidance=Guidance(canvas, settings.cfg_scale) if guided else None,
            audit=audit,
        )
        self._seconds = 0.0
        self._timed = [False] * len(self._tracks)

    def ticks(self) -> Iterator[Tick]:
        """Step until every sequence is done, keeping count. What the consumer does between steps is not timed."""
        while (tick := self._step()) is not None:
            yield tick
        self._clock_out([True] * len(self._tracks))

    @shielded()
    def _step(self) -> Tick | None:
        began = time.perf_counter()
        tick = advance(self.state)
        if tick is not None:
            self._count(tick)
            if self._stops:
                self._stop_at_texts()
        self._seconds += time.perf_counter() - began
        return tick

    def _count(self, tick: Tick) -> None:
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

    def frame(self, tick: Tick, row: int = 0) -> Frame:
        """What one sequence looks like after `tick`."""
        return frame_of(self.state, tick, row, self._tracks[row])

    def results(self) -> list[Generation]:
        """Every sequence's result, in the order of the prompts. Raises RequestError where logits were not finite."""
        if bool(self.state.broken.any()):
            raise not_finite(self.state.model.dtype)
        return [track.result(self._response(row)) for row, track in enumerate(self._tracks)]


def frame_of(state: State, tick: Tick, row: int, track: Track) -> Frame:
    """What the sequence in `row` looks like after `tick`."""
    response = track.response
    tokens = state.canvas.tokens[row].clone()
    committed = ~state.canvas.unfixed[row]
    provisional = torch.zeros_like(committed)
    if tick.read is not None:
        candidates = tick.read.spread(tick.read.token, -1)[row]
        provisional = (candidates >= 0) & ~committed
        tokens = torch.where(provisional, candidates, tokens)
    ids: list[int] = tokens[response].tolist()
    fixed: list[bool] = committed[response].tolist()
    return Frame(
        step=int(tick.step.clock[row]),
        token_ids=ids,
        committed=fixed,
        provisional=provisional[response].tolist(),
        computed=tick.rows[row, response].tolist(),
        prompt_computed=int(tick.rows[row, : response.start].sum()),
        text=track.decode(ids),
        committed_text=track.decode_committed(ids, fixed),
    )


def endings_of(settings: Sequence[Settings], prompt: torch.Tensor, ids: Sequence[int]) -> Endings | None:
    """What sequences under `settings`, with prompts of length prompt [B], are charged for the tokens `ids`, which end a
    text; None where none is charged anything."""
    if not any(s.eos_penalty or s.min_tokens for s in settings):
        return None
    penalty = torch.tensor([float(s.eos_penalty) for s in settings], device=prompt.device)
    barred = torch.tensor([s.min_tokens for s in settings], device=prompt.device)
    return Endings(torch.tensor(ids, device=prompt.device), penalty, prompt + barred)


def sampling_of(settings: Sequence[Settings], vocab: int, device: torch.device) -> Sampling:
    """How sequences under `settings` draw their tokens. A filter that keeps everything stands in where only others have
    one; top_p=1 is none, lest rounding drop the tail."""

    def each(values: list[float | None], keeps_all: float) -> torch.Tensor | None:
        if all(value is None for value in values):
            return None
        return torch.tensor([keeps_all if value is None else value for value in values], device=device)

    return Sampling(
        torch.tensor([float(s.temperature) for s in settings], device=device),
        each([None if s.top_p == 1 else s.top_p for s in settings], torch.inf),
        each([s.top_k for s in settings], vocab),
        greedy=all(s.temperature == 0 for s in settings),
    )


def schedule_of(settings: Settings, batch: int, device: torch.device, holed: bool = False) -> Schedule:
    """The schedule of `batch` sequences under `settings`; holed: they have given tokens in the response or after it."""

    def each(value: int) -> torch.Tensor:
        return torch.full((batch,), value, device=device)

    return Schedule(
        each(settings.block_length),
        each(settings.blocks),
        each(settings.steps // settings.blocks),
        adaptive=each(True) if holed else None,
        grows=each(True) if settings.grow else None,
    )
