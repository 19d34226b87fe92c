"""From the token ids of one response to its text: where it ends, where a stop text cuts it, and what of it is final."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from dkv.tokenizer import Tokenizer

__all__ = ["OPEN", "Detokenizer"]

OPEN = "_"
"""Stands for a position without a committed token."""
_NO_TOKEN = -1
_MOST_BYTES = 4
"""Bytes of a character at most, and so the ids that may add nothing to the length of a text."""


class Detokenizer:
    """The text of one response.

    `grow` hands out what is final, once. A position is final once it and all before it are committed. Held back until
    more is known: half a character, and what may be the beginning of a stop text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        stop_ids: Sequence[int],
        stop: Sequence[str] = (),
    ) -> None:
        """stop_ids: ids that end the text; stop: texts that end it. Without a tokenizer there are ids only."""
        self.tokenizer, self._stop_ids, self._stop = tokenizer, frozenset(stop_ids), tuple(stop)
        self._sent, self._text = 0, ""
        self._last: tuple[list[int], str] = [], ""

    @property
    def has_stop_texts(self) -> bool:
        """Whether `find_stop` can find anything."""
        return bool(self._stop) and self.tokenizer is not None

    def text_ids(self, ids: list[int]) -> list[int]:
        """The ids before the first end-of-text; all where nothing ends them."""
        return ids[: next((i for i, token in enumerate(ids) if token in self._stop_ids), len(ids))]

    def decode(self, ids: list[int]) -> str | None:
        """The text of ids up to the end-of-text; None without a tokenizer."""
        return None if self.tokenizer is None else self._decoded(self.tokenizer, self.text_ids(ids))

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
        if not self._stop or self.tokenizer is None:
            return None
        text = self._decoded(self.tokenizer, ids)
        cuts = [text.find(stop) for stop in self._stop if stop in text]
        return (text[: min(cuts)], _tokens_up_to(self.tokenizer, ids, min(cuts))) if cuts else None

    def grow(self, ids: list[int]) -> tuple[tuple[int, ...], str]:
        """The ids and the text that are new in `ids`, the response's final beginning."""
        kept = self.text_ids(ids)
        if len(kept) <= self._sent:
            return (), ""
        new, self._sent = tuple(kept[self._sent :]), len(kept)
        return new, "" if self.tokenizer is None else self._add(self._safe(self._decoded(self.tokenizer, kept)))

    def close(self, ids: list[int], text: str | None) -> tuple[tuple[int, ...], str]:
        """The rest, at the end: ids up to the end-of-text, and what is missing of `text`."""
        new = tuple(self.text_ids(ids)[self._sent :])
        return new, "" if text is None else self._add(text)

    def _decoded(self, tokenizer: Tokenizer, ids: list[int]) -> str:
        """The text of ids; a step asks for the same ones several times, and many steps add none."""
        if self._last[0] != ids:
            self._last = list(ids), tokenizer.decode(ids)
        return self._last[1]

    def _add(self, text: str) -> str:
        new = text[len(self._text) :] if text.startswith(self._text) else ""
        self._text += new
        return new

    def _safe(self, text: str) -> str:
        """text without what may still turn into something else."""
        text = text.rstrip("\ufffd")
        longest = max(map(len, self._stop), default=0)
        for start in range(max(0, len(text) - longest), len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stop):
                return text[:start]
        return text


def _tokens_up_to(tokenizer: Tokenizer, ids: list[int], length: int) -> int:
    """The fewest first ids whose text has at least `length` characters, by bisection. An unfinished character may count
    as more characters than it becomes, so the ids just before are tried as well."""

    def reaches(count: int) -> bool:
        return len(tokenizer.decode(ids[:count])) >= length

    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle + 1, high)
    return next((n for n in range(max(0, low - _MOST_BYTES), low) if reaches(n)), low)
