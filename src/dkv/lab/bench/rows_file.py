"""The file of a benchmark: a row a line. What is finished stays, whatever happens to the run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from dkv.errors import SettingError
from dkv.lab.bench.rows import BenchRow

__all__ = ["append_rows", "read_rows"]


def read_rows(path: Path) -> list[BenchRow]:
    """The rows of a file; none where there is no file. A last line that was cut off does not count.

    Raises SettingError for a file that holds something else.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(_whole_lines(path), 1):
        try:
            rows.append(BenchRow.read(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
            raise SettingError(
                f"file={str(path)!r}: line {number} is not a row of `dkv bench`; give another file, or remove the line"
            ) from None
    return rows


def _whole_lines(path: Path) -> list[bytes]:
    """The lines that end as lines do. Raises SettingError where it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingError(f"file={str(path)!r} cannot be read ({error.strerror or error}); give another") from None
    return data[: data.rfind(b"\n") + 1].splitlines()


def append_rows(path: Path, rows: Sequence[BenchRow]) -> None:
    """Add rows, all in one write, and see to it that they are on the disk. A cut-off last line is dropped before.

    Raises SettingError where the file cannot be written.
    """
    text = "".join(json.dumps(row.record) + "\n" for row in rows)
    try:
        with path.open("a+b") as file:
            _mend(file.fileno())
            os.write(file.fileno(), text.encode("ascii"))
            os.fsync(file.fileno())
    except OSError as error:
        raise SettingError(f"out={str(path)!r} cannot be written ({error.strerror or error}); give another") from None


def _mend(file: int) -> None:
    """Drop what follows the last line end."""
    end = size = os.fstat(file).st_size
    while end and os.pread(file, 1, end - 1) != b"\n":
        end -= 1
    if end < size:
        os.ftruncate(file, end)
