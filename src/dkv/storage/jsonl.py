"""A user's files: JSONL to read, gzipped or not, with the fields of the published data; and a file of results to write,
by one process at a time. Nothing is fetched."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dkv.errors import SettingError

__all__ = ["open_alone", "raw_lines", "read_records"]


def read_records(argument: str, path: Path, fields: tuple[str, ...], count: int | None = None) -> list[dict[str, str]]:
    """The named text fields of the first `count` lines. Raises SettingError naming the argument, file and line."""
    try:
        found = [
            _record(f"{argument}={str(path)!r}: line {number}", line.decode("utf-8"), fields)
            for number, line in enumerate(raw_lines(argument, path), 1)
            if line.strip() and (count is None or number <= count)
        ]
    except UnicodeDecodeError as error:
        raise _unreadable(argument, path, error) from None
    if not found:
        raise SettingError(f"{argument}={str(path)!r} holds no examples; give a JSONL file with {', '.join(fields)}")
    return found


def raw_lines(argument: str, path: Path) -> Iterator[bytes]:
    """The lines of a file, gzipped or not, one at a time. Raises SettingError naming the argument and the file."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else path.open("rb") as lines:
            yield from lines
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(argument, path, error) from None


def _unreadable(argument: str, path: Path, error: Exception) -> SettingError:
    reason = getattr(error, "strerror", None) or error
    return SettingError(f"{argument}={str(path)!r}: {reason}; give a JSONL file, gzipped or not")


def _record(where: str, line: str, fields: tuple[str, ...]) -> dict[str, str]:
    try:
        record = json.loads(line)
    except ValueError:
        raise SettingError(f"{where} is not JSON") from None
    missing = [name for name in fields if not isinstance(record, dict) or not isinstance(record.get(name), str)]
    if missing:
        raise SettingError(f"{where} has no text {missing[0]!r}; the fields are {', '.join(fields)}")
    return {name: record[name] for name in fields}


def open_alone(argument: str, path: Path, fix: str) -> BinaryIO:
    """A file, made if need be, for reading and appending by this process alone. fix: what else to do while another
    writes it. Raises SettingError, OSError."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise SettingError(f"{argument}={str(path)!r} must be a file in a directory that exists")
    file = path.open("a+b")
    try:
        import fcntl
    except ImportError:  # Windows: no advisory locks of this kind
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise SettingError(f"{argument}={str(path)!r} is being written by another run; wait, or {fix}") from None
    return file
