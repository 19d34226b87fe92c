"""The input of a batch job: JSON lines, read again and again but never held."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dkv.errors import SettingError
from dkv.storage.jsonl import raw_lines

__all__ = ["Source", "SourceLine"]


@dataclass(frozen=True)
class SourceLine:
    """One line as it stands in the file; number counts from 1, blank lines included."""

    number: int
    text: bytes


class Source:
    """A file of lines, gzipped or not. count: lines that are not blank; last: the number of the last of them; digest:
    of all lines. Raises SettingError where the file cannot be read, or holds nothing."""

    def __init__(self, path: Path, inspect: Callable[[SourceLine], object]) -> None:
        """inspect: called with each line, on the one pass that this takes."""
        if not path.is_file():
            reason = "is no file that can be read twice" if path.exists() or str(path) == "-" else "does not exist"
            raise SettingError(f"input={str(path)!r} {reason}; give a file of JSON lines")
        self.path, self.count, self.last = path, 0, 0
        found = hashlib.blake2b(digest_size=12)
        for line in self.lines():
            found.update(b"%d " % line.number + line.text.strip() + b"\n")
            self.count, self.last = self.count + 1, line.number
            inspect(line)
        if not self.count:
            raise SettingError(f"input={str(path)!r} holds no prompts; give a file of JSON lines")
        self.digest = found.hexdigest()

    def lines(self) -> Iterator[SourceLine]:
        """The lines that are not blank, in order. Raises SettingError."""
        for number, text in enumerate(raw_lines("input", self.path), 1):
            if text.strip():
                yield SourceLine(number, text)
