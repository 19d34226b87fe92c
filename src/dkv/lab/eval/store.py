"""Finished results in a JSONL file: what is there once is never made again, and an interrupted run loses nothing.

The first line says what all results have in common (the model above all). Each further line is one of them under the
digest of what decides it: an answer under what was asked. A line that a crash left unfinished is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from dkv.errors import SettingError
from dkv.storage.jsonl import open_alone

__all__ = ["ANSWERS", "Store", "StoreFormat"]


@dataclass(frozen=True)
class StoreFormat:
    """Of a file. format: its name and version, as the first line has it; command: what writes such files; fix: what to
    do where a file is of another kind or run."""

    format: str
    command: str
    fix: str = "give another file"

    @property
    def beginning(self) -> bytes:
        """How every file of any version of the format begins."""
        return b'{"format": "' + self.format.partition(" ")[0].encode()


ANSWERS = StoreFormat("dkv-eval 1", "dkv eval")


class Store:
    """Answers by digest, kept in memory and, with a path, in a file. A context manager; `put` writes at once.

    common: what every result of the file must have been made with; noted: what else its first line is to say, if it is
    a new one. Raises SettingError where the file holds others, or is no such file, and OSError.
    """

    def __init__(
        self,
        path: Path | None,
        common: Mapping[str, Any],
        kind: StoreFormat = ANSWERS,
        noted: Mapping[str, Any] | None = None,
    ) -> None:
        self._kind, self._noted, self._found = kind, noted or {}, dict[str, dict[str, Any]]()
        self._file: BinaryIO | None = None
        if path is None:
            return
        self._file = open_alone("out", path, kind.fix)
        try:
            self._read(path, {"format": kind.format, **common})
        except BaseException:
            self._file.close()
            raise

    def _read(self, path: Path, header: Mapping[str, Any]) -> None:
        """Take over what the file holds. Nothing in it is touched before its first line has shown that it is ours."""
        if self._file is None:
            return
        self._file.seek(0)
        content = self._file.read()
        end = content.rfind(b"\n") + 1
        lines = content[:end].splitlines()
        if lines:
            self._compare(path, self._parsed(path, lines[0], 1), header)
        elif not (content.startswith(self._kind.beginning) or self._kind.beginning.startswith(content)):
            self._parsed(path, b"", 1)
        if end < len(content):
            self._file.truncate(end)
        for number, line in enumerate(lines[1:], 2):
            record = self._parsed(path, line, number)
            self._found[str(record["key"])] = record
        if not lines:
            self._write([{**header, **self._noted}])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: str) -> dict[str, Any]:
        """The record of a key. Raises KeyError."""
        return self._found[key]

    def put(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep records by key, all in one write."""
        made = [{"key": key, **record} for key, record in records.items()]
        if made:
            self._write(made)
            self._found.update((record["key"], record) for record in made)

    def _write(self, records: Sequence[Mapping[str, Any]]) -> None:
        if self._file is not None:
            self._file.write("".join(json.dumps(record) + "\n" for record in records).encode())
            self._file.flush()
            os.fsync(self._file.fileno())

    def _parsed(self, path: Path, line: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or ("format" if number == 1 else "key") not in record:
            raise SettingError(
                f"out={str(path)!r}: line {number} is not of a result file of {self._kind.command}; {self._kind.fix}"
            )
        return record

    def _compare(self, path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        for name, value in wanted.items():
            if found.get(name) != value:
                raise SettingError(
                    f"out={str(path)!r} holds results with {name}={found.get(name)!r}, not {value!r}; {self._kind.fix}"
                )
