"""What generating gives back: a finished sequence, what it cost, and what it looks like after a step."""

from __future__ import annotations

from dataclasses import dataclass

from dkv.params import ResolvedParams

__all__ = ["Frame", "Generation", "Stats"]


@dataclass(frozen=True)
class Stats:
    """What one sequence cost."""

    forwards: int
    """Forwards of the network. The unconditional row of guidance runs beside its sequence and counts as one with it."""
    rows_computed: float
    """Rows through the feed-forward, averaged over layers, those of the unconditional row included."""
    rows_total: int
    """Rows that as many forwards compute without a cache."""
    new_tokens: int
    """Generated tokens before the end-of-text."""
    seconds: float
    """Wall-clock time from the sequence's start to its end."""

    @property
    def tokens_per_second(self) -> float:
        """new_tokens / seconds; 0 where no time was measured."""
        return self.new_tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Generation:
    """One finished sequence, with what made it."""

    prompt_ids: list[int]
    """Token ids before the response."""
    token_ids: list[int]
    """The response, gen_length ids. After the end-of-text they are end-of-text ids, or with stop_at_eos=False what the
    canvas was filled with. Of a canvas with gaps: also the given ids between them."""
    text: str | None
    """Text up to the end-of-text or a stop text; None without a tokenizer."""
    finish_reason: str
    """"stop" or "length"."""
    stats: Stats
    """What it cost."""
    settings: ResolvedParams
    """The parameters that made it, with every default filled in."""
    seed: int
    """The sequence's own seed."""
    version: str
    """The version of dkv that made it."""
    trace: list[list[tuple[int, int]]] | None = None
    """For each step the (position in the response, token id) pairs that were committed; None unless asked for."""


@dataclass(frozen=True)
class Frame:
    """The response of one sequence after a step."""

    step: int
    """Number of the forward, from 0."""
    token_ids: list[int]
    """Committed tokens, the candidates read at this step, and the mask id elsewhere."""
    committed: list[bool]
    """Which positions hold a committed token."""
    provisional: list[bool]
    """Which positions hold a candidate, which may still change."""
    computed: list[bool]
    """Which positions were computed at this step; the others came from the cache."""
    prompt_computed: int
    """How many rows of the prompt were computed."""
    text: str | None
    """Text of committed and provisional tokens up to the first end-of-text; None without a tokenizer."""
    generation: Generation | None = None
    """The result, on the last frame only."""
    committed_text: str | None = None
    """Text of committed tokens alone up to a committed end-of-text, "_" for each open position; None without a
    tokenizer."""
