"""One sequence on the host: what it was asked, what it has cost so far, and its result. It knows nothing of batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby

from torch import Tensor

from dkv.core.model import ModelConfig
from dkv.outputs import Generation, Stats
from dkv.params import SamplingParams
from dkv.tokenizer import Tokenizer

__all__ = ["OPEN", "Track"]

OPEN = "_"
"""Stands for a position without a committed token."""
_NO_TOKEN = -1


@dataclass
class Track:
    """A sequence under way. prompt: its token ids; traced: whether what each step fixed is kept; holed: whether the
    response has given tokens in it, or others after it, so that nothing ends it; forwards, work (rows of every layer),
    total (rows that no cache computes), seconds and steps: so far."""

    config: ModelConfig
    tokenizer: Tokenizer | None
    prompt: list[int]
    settings: SamplingParams
    seed: int
    version: str
    traced: bool = False
    holed: bool = False
    forwards: int = 0
    work: int = 0
    total: int = 0
    seconds: float = 0.0
    steps: list[list[tuple[int, int]]] = field(default_factory=list)
    stop_ids: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        turn_ends = self.tokenizer.turn_end_ids if self.tokenizer else ()
        self.stop_ids = tuple(dict.fromkeys((*self.config.eos_ids, *turn_ends)))

    @property
    def response(self) -> slice:
        """Where the response lies on the canvas."""
        return slice(len(self.prompt), len(self.prompt) + self.settings.gen_length)

    def note(self, rows: int, work: int, total: int) -> None:
        """Count a step that carried `rows` rows of it: work in all layers, and total without a cache."""
        if rows:
            self.forwards, self.total = self.forwards + 1, self.total + total
        self.work += work

    def settled(self, tokens: list[int], unfixed: list[bool]) -> list[int]:
        """The final beginning of the response, from its row of the canvas: fixed, and all before it too."""
        open_ = unfixed[self.response]
        return tokens[self.response][: open_.index(True) if True in open_ else None]

    def fix(self, positions: list[int], tokens: Tensor) -> None:
        """Keep what a step fixed at `positions` of its row `tokens` [T] of the canvas."""
        self.steps.append([(p - self.response.start, int(tokens[p])) for p in positions])

    def text_ids(self, ids: list[int]) -> list[int]:
        """The ids before the first end-of-text; all where nothing ends them."""
        if self.holed:
            return ids
        return ids[: next((i for i, token in enumerate(ids) if token in self.stop_ids), len(ids))]

    def decode(self, ids: list[int]) -> str | None:
        """The text of ids up to the end-of-text; None without a tokenizer."""
        return None if self.tokenizer is None else self.tokenizer.decode(self.text_ids(ids))

    def decode_committed(self, ids: list[int], committed: list[bool]) -> str | None:
        """The text of the committed ids up to a committed end-of-text, `OPEN` for each position that is not committed;
        None without a tokenizer."""
        if self.tokenizer is None:
            return None
        shown = self.text_ids([token if fixed else _NO_TOKEN for token, fixed in zip(ids, committed, strict=True)])
        runs = ((fixed, list(run)) for fixed, run in groupby(shown, key=lambda token: token != _NO_TOKEN))
        return "".join(self.tokenizer.decode(run) if fixed else OPEN * len(run) for fixed, run in runs)

    def find_stop(self, ids: list[int]) -> tuple[str, int] | None:
        """The text before the earliest stop text in ids, and how many tokens reach up to it."""
        if not self.settings.stop or self.tokenizer is None:
            return None
        text = self.tokenizer.decode(ids)
        cuts = [text.find(stop) for stop in self.settings.stop if stop in text]
        if not cuts:
            return None
        count = next(n for n in range(len(ids) + 1) if len(self.tokenizer.decode(ids[:n])) >= min(cuts))
        return text[: min(cuts)], count

    def result(self, ids: list[int]) -> Generation:
        """What came of it, from the response `ids`, gen_length long."""
        kept = self.text_ids(ids)
        text = None if self.tokenizer is None else self.tokenizer.decode(kept)
        count, stopped = len(kept), len(kept) < len(ids)
        if (cut := self.find_stop(kept)) is not None:
            (text, count), stopped = cut, True
        if len(kept) < len(ids) and self.settings.stop_at_eos:
            ids = kept + [ids[len(kept)]] + [self.config.eos_ids[0]] * (len(ids) - len(kept) - 1)
        return Generation(
            prompt_ids=list(self.prompt),
            token_ids=ids,
            text=text,
            finish_reason="stop" if stopped else "length",
            stats=self._stats(count),
            settings=self.settings,
            seed=self.seed,
            version=self.version,
            trace=self.steps if self.traced else None,
        )

    def _stats(self, new_tokens: int) -> Stats:
        layers = self.config.layers
        computed = self.work / layers if self.work % layers else self.work // layers
        return Stats(self.forwards, computed, self.total, new_tokens, self.seconds)
