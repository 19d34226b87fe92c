"""A request: what goes into the engine and what comes out of it; and under way, on the host, as a sequence."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dkv.core.loop import State, StepOutput
from dkv.core.model import ModelConfig
from dkv.core.policy import CachePolicy, Decoder, state_size_of
from dkv.core.registry import name_of
from dkv.core.values import plain
from dkv.engine.detokenizer import Detokenizer
from dkv.errors import DkvError, RequestError
from dkv.outputs import Frame, Generation, Stats
from dkv.params import ResolvedParams
from dkv.tokenizer import Tokenizer
from dkv.version import VERSION

__all__ = ["Request", "Sequence", "SequenceOutcome", "Status", "Update"]

_MOST_STATE = 64
"""Numbers of each position that a decoder may keep."""


@dataclass(frozen=True)
class Request:
    """A prompt and how to answer it, checked. `DiffusionLM.request` makes one.

    prompt: token ids; given: what follows the prompt if it is not all masked: token ids, None where masked, of which
    the first gen_length are the response; number: its place among the prompts of one call (a decoder with a given order
    reads it); trace: keep what each step fixed; frames: give a Frame at each step; deltas: give what became final at
    each step, else only the end is told.
    """

    prompt: tuple[int, ...] = field(repr=False)
    settings: ResolvedParams
    seed: int
    number: int = 0
    trace: bool = False
    frames: bool = False
    deltas: bool = True
    given: tuple[int | None, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for name in ("prompt", "given"):
            object.__setattr__(self, name, tuple(map(plain, plain(getattr(self, name)))))
        object.__setattr__(self, "seed", plain(self.seed))

    @property
    def length(self) -> int:
        """Positions of all: prompt, response and what follows it."""
        return len(self.prompt) + (len(self.given) or self.settings.gen_length)


@dataclass(frozen=True)
class Update:
    """What a step did to one request. ids: response ids that became final, which is fixed with all before them, up to
    the end-of-text; text: the final text that they add (all texts joined are the generation's); frame: if asked for;
    generation: with the last update; error: with the last update of a request that failed, instead."""

    request_id: int
    ids: tuple[int, ...] = ()
    text: str = ""
    frame: Frame | None = None
    generation: Generation | None = None
    error: DkvError | None = None

    @property
    def last(self) -> bool:
        """Whether nothing follows."""
        return self.generation is not None or self.error is not None

    @property
    def has_output(self) -> bool:
        """Whether there is anything in it; many a step fixes nothing that is final yet."""
        return bool(self.ids or self.text) or self.frame is not None or self.last


@dataclass(frozen=True)
class Status:
    """Where an engine stands. active, waiting: requests now; memory_used, memory_limit: bytes of cache (limit None =
    none set); since its start: requests_started, requests_finished, requests_cancelled, requests_failed, tokens
    (generated, up to the end-of-text, of finished requests), rows_computed (through the MLP, averaged over layers),
    rows_total (what no cache computes in as many forwards), steps, step_seconds (their sum)."""

    active: int
    waiting: int
    memory_used: int
    memory_limit: int | None
    requests_started: int
    requests_finished: int
    requests_cancelled: int
    tokens: int
    rows_computed: float
    rows_total: int
    steps: int
    step_seconds: float
    requests_failed: int = 0


@dataclass(eq=False)
class Sequence:
    """A request under way. It takes one row of a batch, or two if it is guided."""

    request_id: int
    request: Request
    config: ModelConfig
    tokenizer: Tokenizer | None
    policy: CachePolicy
    """Its settings' own, or an equal one of another sequence, the same object."""
    decoder: Decoder
    """As `policy`."""
    forwards: int = 0
    """Forwards that carried a row of it."""
    work: int = 0
    """Rows through a feed-forward, summed over layers."""
    total: int = 0
    """Rows that its forwards would have carried without a cache."""
    seconds: float = 0.0
    """Of its steps, company included."""
    steps: list[list[tuple[int, int]]] = field(default_factory=list)
    """What each step committed, as (position in the response, token id); only where the request asks for a trace."""
    frames: int = 0
    """Frames sent since it (last) began."""
    repeated_frames: int = 0
    """Frames still to come that were sent before it began again."""
    stop_ids: tuple[int, ...] = field(init=False)
    """Ids that end a text."""
    text: Detokenizer = field(init=False)
    """Its response as text."""

    def __post_init__(self) -> None:
        """Raises RequestError for a decoder whose attributes are no such."""
        turn_ends = self.tokenizer.turn_end_ids if self.tokenizer else ()
        self.stop_ids = tuple(dict.fromkeys((*self.config.eos_ids, *turn_ends)))
        self.text = Detokenizer(self.tokenizer, () if self.request.given else self.stop_ids, self.settings.stop)
        adaptive, self.state_size = self.decoder.adaptive, state_size_of(self.decoder)
        if not isinstance(adaptive, bool):
            raise self._bad_attribute("adaptive must be True or False")
        if type(self.state_size) is not int or not 0 <= self.state_size <= _MOST_STATE:
            raise self._bad_attribute(f"state_size must be from 0 to {_MOST_STATE}")
        self.adaptive = adaptive or bool(self.request.given)  # one with given tokens has fewer to commit than steps

    def _bad_attribute(self, rule: str) -> RequestError:
        return RequestError(f"decoder={name_of(self.decoder)!r}: its attribute {rule}")

    @property
    def settings(self) -> ResolvedParams:
        """What it was asked under."""
        return self.request.settings

    @property
    def length(self) -> int:
        """Positions of prompt, response and what follows it."""
        return self.request.length

    @property
    def response(self) -> slice:
        """Where the response lies on the canvas."""
        start = len(self.request.prompt)
        return slice(start, start + self.settings.gen_length)

    @property
    def watched(self) -> bool:
        """Whether the host must look at its tokens at every step."""
        return self.request.deltas or self.text.has_stop_texts

    def restart(self) -> None:
        """Forget what it has done; what was sent stays sent."""
        self.forwards = self.work = self.total = 0
        self.steps.clear()
        self.repeated_frames, self.frames = self.frames + self.repeated_frames, 0

    def count(self, rows: int, work: int, total: int) -> None:
        """Count a step that carried `rows` rows of it: work in all layers, and total without a cache."""
        if rows:
            self.forwards, self.total = self.forwards + 1, self.total + total
        self.work += work

    def settled(self, tokens: list[int], unfixed: list[bool]) -> list[int]:
        """The final beginning of the response, from its row of the canvas: committed, and all before it too."""
        open_ = unfixed[self.response]
        return tokens[self.response][: open_.index(True) if True in open_ else None]

    def update(self, state: State, output: StepOutput, row: int, settled: list[int] | None, done: bool) -> Update:
        """What a step did to it. row: of the batch; settled: the final beginning of its response, None where nobody
        asks for it."""
        frame = None
        if self.request.frames and self.repeated_frames:  # sent before it began again
            self.repeated_frames -= 1
        elif self.request.frames:
            frame = self._frame(state, output, row)
            self.frames += 1
        ids, text = ((), "") if done or settled is None else self.text.grow(settled)
        return Update(self.request_id, ids, text, frame)

    def _frame(self, state: State, output: StepOutput, row: int) -> Frame:
        """What it looks like after a step."""
        tokens, committed = state.canvas.tokens[row].clone(), ~state.canvas.unfixed[row]
        provisional = torch.zeros_like(committed)
        if output.predictions is not None:
            candidates = output.predictions.spread(output.predictions.token, -1)[row]
            provisional = (candidates >= 0) & ~committed
            tokens = torch.where(provisional, candidates, tokens)
        ids: list[int] = tokens[self.response].tolist()
        fixed: list[bool] = committed[self.response].tolist()
        return Frame(
            step=int(output.step.num_forwards[row]),
            token_ids=ids,
            committed=fixed,
            provisional=provisional[self.response].tolist(),
            computed=output.rows[row, self.response].tolist(),
            prompt_computed=int(output.rows[row, : self.response.start].sum()),
            text=self.text.decode(ids),
            committed_text=self.text.decode_committed(ids, fixed),
        )

    def add_step(self, positions: list[int], tokens: Tensor) -> None:
        """Keep what a step committed at `positions` of its row `tokens` [T] of the canvas."""
        self.steps.append([(p - self.response.start, int(tokens[p])) for p in positions])

    def result(self, ids: list[int]) -> Generation:
        """What came of it, from the response `ids`, gen_length long."""
        kept = self.text.text_ids(ids)
        text = self.text.decode(kept)
        count, stopped = len(kept), len(kept) < len(ids)
        if (cut := self.text.find_stop(kept)) is not None:
            (text, count), stopped = cut, True
        if len(kept) < len(ids) and self.settings.stop_at_eos:
            ids = kept + [ids[len(kept)]] + [self.config.eos_ids[0]] * (len(ids) - len(kept) - 1)
        return Generation(
            prompt_ids=list(self.request.prompt),
            token_ids=ids,
            text=text,
            finish_reason="stop" if stopped else "length",
            stats=self._stats(count),
            settings=self.settings,
            seed=self.request.seed,
            version=VERSION,
            trace=self.steps if self.request.trace else None,
        )

    def _stats(self, new_tokens: int) -> Stats:
        layers = self.config.layers
        computed = self.work / layers if self.work % layers else self.work // layers
        return Stats(self.forwards, computed, self.total, new_tokens, self.seconds)


@dataclass(frozen=True)
class SequenceOutcome:
    """What a step did to a sequence."""

    sequence: Sequence
    update: Update
    last: bool = False
    """It is complete."""
    error: DkvError | None = None
    """Why it failed, and must leave."""
