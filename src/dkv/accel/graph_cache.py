"""A bounded table of what was recorded, by key: the least recently used goes, unless it is still in use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Table"]

T = TypeVar("T")

_HOT = 4
"""An entry is in use if it was asked for within so many times `size` questions."""


@dataclass
class _Entry(Generic[T]):
    value: T
    last: int


class Table(Generic[T]):
    """At most `size` values. A key is worth recording when it is met for the second time, and only where there is room:
    where every entry is in use, a new one would only take turns with them."""

    def __init__(self, size: int) -> None:
        self._size, self._questions = size, 0
        self._entries = OrderedDict[Hashable, _Entry[T]]()
        self._met = OrderedDict[Hashable, bool]()  # True: it cannot be recorded

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: Hashable) -> T | None:
        """What was recorded for a key, which is then the most recently used; None where nothing was."""
        self._questions += 1
        entry = self._entries.get(key)
        if entry is None:
            return None
        entry.last = self._questions
        self._entries.move_to_end(key)
        return entry.value

    def worth(self, key: Hashable) -> bool:
        """Whether to record a key that was not found, now."""
        refused = self._met.pop(key, None)
        self._met[key] = bool(refused)
        if len(self._met) > _HOT * self._size:
            self._met.popitem(last=False)
        return refused is False and self._room()

    def put(self, key: Hashable, value: T) -> None:
        """Keep what was recorded for a key that was worth it."""
        while len(self._entries) >= self._size:
            self._entries.popitem(last=False)
        self._entries[key] = _Entry(value, self._questions)

    def refuse(self, key: Hashable) -> None:
        """Note that a key cannot be recorded."""
        self._met[key] = True

    def _room(self) -> bool:
        if len(self._entries) < self._size:
            return True
        oldest = next(iter(self._entries.values()))
        return self._questions - oldest.last > _HOT * self._size
