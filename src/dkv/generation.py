"""One batch from prompts to results: host-side bookkeeping around `advance`, and what a caller gets back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from dkv.canvas import lay_out
from dkv.denoise import Schedule, State, Tick, advance, finish
from dkv.guidance import Guidance
from dkv.model import Model
from dkv.place import Bucket
from dkv.sampling import Sampling
from dkv.settings import Settings
from dkv.tokens import Tokenizer

__all__ = ["Frame", "Generation", "Run", "Stats"]


@dataclass(frozen=True)
class Stats:
    """Of one sequence. forwards: network evaluations (with its guide's, which runs beside it, counted as one);
    rows_computed: rows through the MLP, averaged over layers, the guide's included; rows_total: what no cache computes
    in as many forwards; new_tokens: up to the end-of-text, which is not counted;
    seconds: wall-clock time from the sequence's start to its end."""

    forwards: int
    rows_computed: float
    rows_total: int
    new_tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """new_tokens / seconds."""
        return self.new_tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Generation:
    """One finished sequence, with what made it.

    token_ids: the response, gen_length long, end-of-text ids after the end-of-text (with stop_at_eos=False, what the
    canvas was filled with); text: up to the end-of-text or a stop text, None without a tokenizer; finish_reason: "stop"
    or "length"; trace: per step the (position in the response, token id) pairs that were fixed, None unless asked for;
    seed: this sequence's own.
    """

    prompt_ids: list[int]
    token_ids: list[int]
    text: str | None
    finish_reason: str
    stats: Stats
    settings: Settings
    seed: int
    version: str
    trace: list[list[tuple[int, int]]] | None = None


@dataclass(frozen=True)
class Frame:
    """The response of one sequence after a step. token_ids: fixed tokens, candidates read at this step, the mask id
    elsewhere; committed, provisional: which are which; computed: response positions computed at this step (others came
    from the cache); prompt_computed: how many prompt rows were; generation: on the last frame only."""

    step: int
    token_ids: list[int]
    committed: list[bool]
    provisional: list[bool]
    computed: list[bool]
    prompt_computed: int
    text: str | None
    generation: Generation | None = None


@dataclass
class _Tally:
    """Running counts of one sequence."""

    forwards: int = 0
    work: int = 0
    seconds: float | None = None
    trace: list[list[tuple[int, int]]] = field(default_factory=list)


class Run:
    """A batch of prompts (token ids) being generated under one Settings."""

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
    ) -> None:
        self._tokenizer, self._prompts, self._seeds = tokenizer, prompts, seeds
        self._settings, self._version, self._trace = settings, version, trace
        config, device = model.config, model.device
        guided = settings.cfg_scale > 0
        canvas = lay_out(prompts, settings.gen_length, config.mask_id, seeds, device, first_request, guided)
        batch, width = canvas.tokens.shape
        self.stop_ids = tuple(dict.fromkeys((*config.eos_ids, *(tokenizer.turn_end_ids if tokenizer else ()))))
        self.state = State(
            model=model,
            canvas=canvas,
            memory=model.remember(batch, width, cache_dtype),
            policy=settings.cache,
            decoder=settings.decoder,
            sampling=_sampling(settings, batch, device),
            schedule=_schedule(settings, batch, device),
            stop_ids=self.stop_ids if settings.stop_at_eos else (),
            bucket=bucket,
            guidance=Guidance(canvas, settings.cfg_scale) if guided else None,
            audit=audit,
        )
        self._tallies = [_Tally() for _ in prompts]
        self._seconds = 0.0

    def ticks(self) -> Iterator[Tick]:
        """Step until every sequence is done, keeping count. What the consumer does between steps is not timed."""
        while (tick := self._step()) is not None:
            yield tick
        self._clock_out([True] * len(self._prompts))

    def _step(self) -> Tick | None:
        began = time.perf_counter()
        tick = advance(self.state)
        if tick is not None:
            self._count(tick)
            if self._settings.stop and self._tokenizer:
                self._stop_at_texts()
        self._seconds += time.perf_counter() - began
        return tick

    def _count(self, tick: Tick) -> None:
        self._clock_out(tick.done[: len(self._tallies)])
        for row, tally in enumerate(self._tallies):
            tally.forwards += tick.counts[row] > 0
            tally.work += sum(tick.work[row :: len(self._tallies)])  # its own and its guide's
        if self._trace:
            fixed = tick.committed.nonzero().tolist()
            for row, tally in enumerate(self._tallies):
                if not tick.done[row]:
                    offset, tokens = len(self._prompts[row]), self.state.canvas.tokens[row]
                    tally.trace.append([(p - offset, int(tokens[p])) for r, p in fixed if r == row])

    def _clock_out(self, done: list[bool]) -> None:
        """A finished sequence ended with the step before: take its time once."""
        for tally, is_done in zip(self._tallies, done, strict=True):
            if is_done and tally.seconds is None:
                tally.seconds = self._seconds

    def _stop_at_texts(self) -> None:
        """Finish the sequences whose settled beginning holds a stop text."""
        masked, hit = self.state.canvas.masked.tolist(), [False] * len(self._prompts)
        for row, prompt in enumerate(self._prompts):
            response = masked[row][len(prompt) : len(prompt) + self._settings.gen_length]
            settled = response.index(True) if True in response else len(response)
            hit[row] = self._find_stop(self._response(row)[:settled]) is not None
        hits = torch.zeros_like(self.state.done)
        hits[: len(hit)] = torch.tensor(hit, device=hits.device)
        finish(self.state, hits & ~self.state.done)

    def _response(self, row: int) -> list[int]:
        first = len(self._prompts[row])
        ids: list[int] = self.state.canvas.tokens[row, first : first + self._settings.gen_length].tolist()
        return ids

    def _find_stop(self, ids: list[int]) -> tuple[str, int] | None:
        """The text before the earliest stop text in ids, and how many tokens reach up to it."""
        if not self._settings.stop or self._tokenizer is None:
            return None
        text = self._tokenizer.decode(ids)
        cuts = [text.find(stop) for stop in self._settings.stop if stop in text]
        if not cuts:
            return None
        count = next(n for n in range(len(ids) + 1) if len(self._tokenizer.decode(ids[:n])) >= min(cuts))
        return text[: min(cuts)], count

    def frame(self, tick: Tick, row: int = 0) -> Frame:
        """What one sequence looks like after `tick`."""
        first, last = len(self._prompts[row]), len(self._prompts[row]) + self._settings.gen_length
        tokens = self.state.canvas.tokens[row].clone()
        committed = ~self.state.canvas.masked[row]
        provisional = torch.zeros_like(committed)
        if tick.read is not None:
            candidates = tick.read.spread(tick.read.token, -1)[row]
            provisional = (candidates >= 0) & ~committed
            tokens = torch.where(provisional, candidates, tokens)
        ids: list[int] = tokens[first:last].tolist()
        return Frame(
            step=int(tick.step.clock[row]),
            token_ids=ids,
            committed=committed[first:last].tolist(),
            provisional=provisional[first:last].tolist(),
            computed=tick.rows[row, first:last].tolist(),
            prompt_computed=int(tick.rows[row, :first].sum()),
            text=None if self._tokenizer is None else self._tokenizer.decode(self._text_ids(ids)),
        )

    def _text_ids(self, ids: list[int]) -> list[int]:
        """The ids before the first end-of-text."""
        return ids[: next((i for i, token in enumerate(ids) if token in self.stop_ids), len(ids))]

    def results(self) -> list[Generation]:
        """Every sequence's result, in the order of the prompts."""
        return [self._result(row, tally) for row, tally in enumerate(self._tallies)]

    def _result(self, row: int, tally: _Tally) -> Generation:
        ids = self._response(row)
        kept = self._text_ids(ids)
        text = None if self._tokenizer is None else self._tokenizer.decode(kept)
        count, stopped = len(kept), len(kept) < len(ids)
        if (cut := self._find_stop(kept)) is not None:
            (text, count), stopped = cut, True
        if len(kept) < len(ids) and self._settings.stop_at_eos:
            ids = kept + [ids[len(kept)]] + [self.state.model.config.eos_ids[0]] * (len(ids) - len(kept) - 1)
        layers, rows = self.state.model.config.layers, 2 if self._settings.cfg_scale else 1
        computed = tally.work / layers if tally.work % layers else tally.work // layers
        total = tally.forwards * (len(self._prompts[row]) + self._settings.gen_length) * rows
        return Generation(
            prompt_ids=list(self._prompts[row]),
            token_ids=ids,
            text=text,
            finish_reason="stop" if stopped else "length",
            stats=Stats(tally.forwards, computed, total, count, tally.seconds or 0.0),
            settings=self._settings,
            seed=self._seeds[row],
            version=self._version,
            trace=tally.trace if self._trace else None,
        )


def _sampling(settings: Settings, batch: int, device: torch.device) -> Sampling:
    def each(value: float | None) -> torch.Tensor | None:
        return None if value is None else torch.full((batch,), value, device=device)

    temperature = torch.full((batch,), float(settings.temperature), device=device)
    top_p = None if settings.top_p == 1 else settings.top_p  # 1 keeps everything; rounding must not drop the tail
    return Sampling(temperature, each(top_p), each(settings.top_k), greedy=settings.temperature == 0)


def _schedule(settings: Settings, batch: int, device: torch.device) -> Schedule:
    values = (settings.block_length, settings.blocks, settings.steps // settings.blocks)
    return Schedule(*(torch.full((batch,), value, device=device) for value in values))
