"""JSON lines: a user's files to read, gzipped or not, and files of results to append to and go on with."""

from __future__ import annotations

import gzip
import json
import os
import stat
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from dkv.errors import SettingError

__all__ = ["LineFile", "Store", "StoreFormat", "check_same", "open_alone", "raw_lines", "read_records"]

_CHUNK = 1 << 16  # bytes read at once in search of the last line end


def read_records(argument: str, path: Path, fields: tuple[str, ...], count: int | None = None) -> list[dict[str, str]]:
    """The named text fields of the first `count` lines. Raises SettingError naming the argument, file and line."""
    try:
        with closing(raw_lines(argument, path)) as lines:
            found = [
                _record(f"{argument}={str(path)!r}: line {number}", line.decode("utf-8"), fields)
                for number, line in enumerate(lines, 1)
                if line.strip() and (count is None or number <= count)
            ]
    except UnicodeDecodeError as error:
        raise _unreadable(argument, path, error) from None
    if not found:
        raise SettingError(f"{argument}={str(path)!r} holds no examples; give a JSONL file with {', '.join(fields)}")
    return found


def raw_lines(argument: str, path: Path) -> Generator[bytes, None, None]:
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


class LineFile:
    """JSON lines to append to: what is in the file stays, whatever ends the process.

    resumes: the file is one that can be read back; else (a pipe) lines only go out.
    """

    def __init__(self, file: BinaryIO, resumes: bool = True) -> None:
        self.file, self._resumes = file, resumes
        self.size = _end_of_lines(file) if resumes else 0  # bytes of whole lines

    def lines(self) -> Iterator[bytes]:
        """The whole lines so far."""
        self.file.seek(0)
        return (line for line in self.file if line.endswith(b"\n"))

    def drop_cut_line(self) -> None:
        """Remove what an interrupted write left after the last line end."""
        if self._resumes:
            os.ftruncate(self.file.fileno(), self.size)

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write all of the records or, in a file that resumes, none of them. Raises OSError."""
        data = "".join(json.dumps(record) + "\n" for record in records).encode("ascii")
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self.file.fileno(), left) :]
        except BaseException:
            self.drop_cut_line()
            raise
        self.size += len(data)

    def sync(self) -> None:
        """See to it that what was written is on the disk. Raises OSError."""
        if stat.S_ISREG(os.fstat(self.file.fileno()).st_mode):
            os.fsync(self.file.fileno())


def _end_of_lines(file: BinaryIO) -> int:
    """The number of bytes up to and with the last line end."""
    end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(0, end - _CHUNK)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def check_same(where: str, header: Mapping[str, Any], wanted: Mapping[str, Any], fix: str) -> None:
    """Results are gone on with only by a run with the same settings. Raises SettingError for the first that differs."""
    for name, value in wanted.items():
        if header.get(name) != value:
            other = "of another input" if name == "input" else f"with {name}={header.get(name)!r}, not {value!r}"
            raise SettingError(f"{where} holds results {other}; {fix}")


@dataclass(frozen=True)
class StoreFormat:
    """The kind of a store's file."""

    format: str  # name and version, as the first line has it
    command: str  # what writes such files
    fix: str = "give another file"  # what to do where a file is of another kind or run

    @property
    def beginning(self) -> bytes:
        """How every file of any version of the format begins."""
        return b'{"format": "' + self.format.partition(" ")[0].encode()


class Store:
    """Records by key, in memory and, with a path, in a file: what is there once is never made again.

    The file's first line says what all records have in common, the model above all; each further line is a record. A
    context manager; `put` writes at once. common: what every record of the file must have been made with; noted: what
    else the first line of a new file is to say. Raises SettingError where the file holds others, or is no such file,
    and OSError.
    """

    def __init__(
        self,
        path: Path | None,
        common: Mapping[str, Any],
        kind: StoreFormat,
        noted: Mapping[str, Any] | None = None,
    ) -> None:
        self._found: dict[str, dict[str, Any]] = {}
        self._file: LineFile | None = None
        if path is None:
            return
        file = open_alone("out", path, kind.fix)
        try:
            self._file = LineFile(file)
            self._read(self._file, f"out={str(path)!r}", {"format": kind.format, **common}, kind, noted or {})
        except BaseException:
            file.close()
            raise

    def _read(
        self, file: LineFile, where: str, header: Mapping[str, Any], kind: StoreFormat, noted: Mapping[str, Any]
    ) -> None:
        """Take over what the file holds. Nothing in it is touched before its first line has shown that it is ours."""
        lines = file.lines()
        first = next(lines, None)
        if first is not None:
            check_same(where, _parsed(first, 1, where, kind), header, kind.fix)
        else:
            file.file.seek(0)
            content = file.file.read()
            if not (content.startswith(kind.beginning) or kind.beginning.startswith(content)):
                raise _foreign(where, 1, kind)
        for number, line in enumerate(lines, 2):
            record = _parsed(line, number, where, kind)
            self._found[str(record["key"])] = record
        file.drop_cut_line()
        if first is None:
            self._write([{**header, **noted}])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: str) -> dict[str, Any]:
        """The record of a key. Raises KeyError."""
        return self._found[key]

    def put(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep records by key, all in one write. Raises OSError."""
        made = [{"key": key, **record} for key, record in records.items()]
        if made:
            self._write(made)
            self._found.update((record["key"], record) for record in made)

    def _write(self, records: Iterable[Mapping[str, Any]]) -> None:
        if self._file is not None:
            self._file.append(records)
            self._file.sync()


def _parsed(line: bytes, number: int, where: str, kind: StoreFormat) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or ("format" if number == 1 else "key") not in record:
        raise _foreign(where, number, kind)
    return record


def _foreign(where: str, number: int, kind: StoreFormat) -> SettingError:
    return SettingError(f"{where}: line {number} is not of a result file of {kind.command}; {kind.fix}")
