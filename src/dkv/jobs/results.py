"""The output of a batch job: a line for each answer, in the order in which they were finished.

An answer counts as finished once its whole line is in the file, where no death of the process can take it away. Beside
the file lies another one with what all its answers were made with, so that a run goes on only with the same; the lines
themselves stay plain for other programs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

from dkv.errors import SettingError
from dkv.jobs.records import number_of
from dkv.storage.atomic import write_whole
from dkv.storage.jsonl import LineFile, check_same, open_alone

__all__ = ["Results", "begun_with", "noted_beside"]

FORMAT = "dkv-batch 1"
_SYNC_SECONDS = 1.0
_FIX = "give another output"


def noted_beside(output: Path) -> Path:
    """Where what the answers were made with is noted."""
    output = output.resolve()
    return output.with_name(f"{output.name}.run.json")


def begun_with(output: Path) -> dict[str, Any] | None:
    """What the answers of an output were made with; None where there are none yet, or where it keeps none (a pipe).

    Raises SettingError where it holds something else.
    """
    if not output.is_file() or not output.stat().st_size:
        return None
    try:
        found = json.loads(noted_beside(output).read_bytes())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise SettingError(
            f"output={str(output)!r} is not empty and has no sound {noted_beside(output).name} beside it, so it cannot "
            f"be gone on with; {_FIX}"
        )
    return found


class Results:
    """The answers so far. A context manager; once it is left, all of them are on the disk.

    output: a file, something else that can be written to, or "-" for standard output, which keep nothing to go on
    from; last: the highest number of a line; header: what all answers are made with. Raises SettingError where the
    file's were made with other things, or it is no such file.
    """

    def __init__(self, output: Path, last: int, header: Mapping[str, Any]) -> None:
        self.output, self._last, self._bits = output, last, bytearray(last // 8 + 1)
        self.count, self._synced = 0, time.monotonic()
        self._made = not output.exists()
        self._keeps = str(output) != "-" and (self._made or output.is_file() or output.is_dir())
        try:
            self._file = LineFile(self._opened(), self._keeps)
        except OSError as error:
            raise self._failed(error) from None
        try:
            if self._keeps:
                self._begin({"format": FORMAT, **header})
        except BaseException:
            self._file.file.close()
            raise

    def _opened(self) -> BinaryIO:
        if str(self.output) == "-":
            return open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)
        if self._keeps:
            return open_alone("output", self.output, _FIX)
        return self.output.open("wb", buffering=0)

    def _begin(self, header: Mapping[str, Any]) -> None:
        """Go on with what is there, or note what is to come."""
        found = begun_with(self.output)
        if found is None:
            write_whole(noted_beside(self.output), json.dumps(header, indent=2).encode() + b"\n")
            return
        check_same(f"output={str(self.output)!r}", found, header, _FIX)
        for place, line in enumerate(self._file.lines(), 1):
            self._mark(self._number(place, line))
        self._file.drop_cut_line()

    def _number(self, place: int, line: bytes) -> int:
        try:
            number = number_of(json.loads(line))
        except (ValueError, TypeError, AttributeError, RecursionError):
            number = 0
        if not 1 <= number <= self._last:
            raise SettingError(f"output={str(self.output)!r}: line {place} is not a result of this job; {_FIX}")
        return number

    def _mark(self, number: int) -> None:
        if number not in self:
            self._bits[number // 8] |= 1 << number % 8
            self.count += 1

    def __contains__(self, number: int) -> bool:
        """Whether the line of that number is finished."""
        return bool(self._bits[number // 8] & 1 << number % 8)

    def put(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write answers; one to a line that is answered already is left out. Raises SettingError."""
        new = {number_of(record): record for record in records if number_of(record) not in self}
        try:
            self._file.append(new.values())
            if time.monotonic() - self._synced >= _SYNC_SECONDS:
                self._file.sync()
                self._synced = time.monotonic()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._failed(error) from None
        for number in new:
            self._mark(number)

    def _failed(self, error: OSError) -> SettingError:
        reason = error.strerror or error
        if not self._keeps:
            return SettingError(f"output={str(self.output)!r} cannot be written ({reason}); {_FIX}")
        return SettingError(
            f"output={str(self.output)!r} cannot be written ({reason}); its {self.count} results are kept, and the "
            "same command goes on once it can"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            self._file.sync()
        except OSError as failure:
            if kind is None:
                raise self._failed(failure) from None
        finally:
            self._file.file.close()
            if self._keeps and self._made and not self._file.size:
                self.output.unlink(missing_ok=True)
                noted_beside(self.output).unlink(missing_ok=True)
