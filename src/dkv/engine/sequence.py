"""One request under way, on the host: what it asked for, what it has cost so far, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from dkv.core.model import ModelConfig
from dkv.core.policy import CachePolicy, Decoder, state_size_of
from dkv.engine.detokenizer import Detokenizer
from dkv.engine.request import Request, Update
from dkv.engine.request_errors import name_of
from dkv.errors import DkvError, RequestError
from dkv.outputs import Generation, Stats
from dkv.params import ResolvedParams
from dkv.tokenizer import Tokenizer

__all__ = ["Sequence", "SequenceOutcome"]

_MOST_STATE = 64
"""Numbers of each position that a decoder may keep."""


@dataclass(eq=False)
class Sequence:
    """A request under way. It takes one row of a batch, or two if it is guided."""

    request_id: int
    request: Request
    config: ModelConfig
    tokenizer: Tokenizer | None
    version: str
    """Of this package, for the result."""
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
        name = f"decoder={name_of(self.decoder)!r}"
        if not isinstance(adaptive, bool):
            raise RequestError(f"{name}: its attribute adaptive must be True or False")
        if type(self.state_size) is not int or not 0 <= self.state_size <= _MOST_STATE:
            raise RequestError(f"{name}: its attribute state_size must be from 0 to {_MOST_STATE}")
        self.adaptive = adaptive or bool(self.request.given)  # one with given tokens has fewer to commit than steps

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
            version=self.version,
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
