"""The file of a benchmark: a row a line. What is finished stays, whatever happens to the run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dkv.errors import SettingError
from dkv.lab.bench.rows import BenchRow
from dkv.storage.jsonl import LineFile, open_alone

__all__ = ["append_rows", "read_rows"]


def read_rows(path: Path) -> list[BenchRow]:
    """The rows of a file; none where there is no file. A last line that was cut off does not count.

    Raises SettingError for a file that holds something else.
    """
    if not path.exists():
        return []
    rows = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(LineFile(file).lines(), 1):
                rows.append(_row(path, number, line))
    except OSError as error:
        raise SettingError(f"file={str(path)!r} cannot be read ({error.strerror or error}); give another") from None
    return rows


def _row(path: Path, number: int, line: bytes) -> BenchRow:
    try:
        return BenchRow.read(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        raise SettingError(
            f"file={str(path)!r}: line {number} is not a row of `dkv bench`; give another file, or remove the line"
        ) from None


def append_rows(path: Path, rows: Sequence[BenchRow]) -> None:
    """Add rows, all in one write, and see to it that they are on the disk. A cut-off last line is dropped before.

    Raises SettingError where the file cannot be written.
    """
    try:
        with open_alone("out", path, "give another") as file:
            lines = LineFile(file)
            lines.drop_cut_line()
            lines.append(row.record for row in rows)
            lines.sync()
    except OSError as error:
        raise SettingError(f"out={str(path)!r} cannot be written ({error.strerror or error}); give another") from None
