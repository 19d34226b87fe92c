"""Benchmarks from a user's file: JSONL, gzipped or not, with the fields of the published data. Nothing is fetched."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from dkv.errors import SettingError

__all__ = ["read_records"]


def read_records(argument: str, path: Path, fields: tuple[str, ...], count: int | None = None) -> list[dict[str, str]]:
    """The named text fields of the first `count` lines. Raises SettingError naming the argument, file and line."""
    try:
        found = [
            _record(f"{argument}={str(path)!r}: line {number}", line, fields)
            for number, line in enumerate(_lines(path), 1)
            if line.strip() and (count is None or number <= count)
        ]
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingError(f"{argument}={str(path)!r}: {reason}; give a JSONL file, gzipped or not") from None
    if not found:
        raise SettingError(f"{argument}={str(path)!r} holds no examples; give a JSONL file with {', '.join(fields)}")
    return found


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rt", encoding="utf-8") if zipped else path.open(encoding="utf-8") as lines:
        yield from lines


def _record(where: str, line: str, fields: tuple[str, ...]) -> dict[str, str]:
    try:
        record = json.loads(line)
    except ValueError:
        raise SettingError(f"{where} is not JSON") from None
    missing = [name for name in fields if not isinstance(record, dict) or not isinstance(record.get(name), str)]
    if missing:
        raise SettingError(f"{where} has no text {missing[0]!r}; the fields are {', '.join(fields)}")
    return {name: record[name] for name in fields}
