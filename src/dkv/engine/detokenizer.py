"""Final text as it grows: nothing is sent that could still change."""

from __future__ import annotations

from dkv.engine.sequence import Track

__all__ = ["Deltas"]


class Deltas:
    """What of one sequence's response is final, and not yet told.

    A position is final once it and all before it are fixed. Held back until more is known: half a character, and what
    may be the beginning of a stop text.
    """

    def __init__(self, track: Track) -> None:
        self._track, self._ids, self._text = track, 0, ""

    def grow(self, ids: list[int]) -> tuple[tuple[int, ...], str]:
        """The ids and the text that are new in `ids`, the response's final beginning."""
        kept = self._track.text_ids(ids)
        if len(kept) <= self._ids:
            return (), ""
        new, self._ids = tuple(kept[self._ids :]), len(kept)
        text = self._track.decode(kept)
        return new, "" if text is None else self._add(self._safe(text))

    def close(self, ids: list[int], text: str | None) -> tuple[tuple[int, ...], str]:
        """The rest, at the end: ids up to the end-of-text, and what is missing of `text`."""
        new = tuple(self._track.text_ids(ids)[self._ids :])
        return new, "" if text is None else self._add(text)

    def _add(self, text: str) -> str:
        new = text[len(self._text) :] if text.startswith(self._text) else ""
        self._text += new
        return new

    def _safe(self, text: str) -> str:
        """text without what may still turn into something else."""
        text = text.rstrip("\ufffd")
        stops = self._track.settings.stop
        longest = max((len(stop) for stop in stops), default=0)
        for start in range(max(0, len(text) - longest), len(text)):
            if any(stop.startswith(text[start:]) for stop in stops):
                return text[:start]
        return text
