"""What is in the file stays there, whatever happened to its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from dkv import SettingError
from dkv.lab.bench.rows_file import append_rows, read_rows
from tests.support.bench_samples import row


def test_rows_are_added(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    assert read_rows(path) == []
    append_rows(path, [row(), row(gen=40)])
    append_rows(path, [row(gen=80)])
    assert read_rows(path) == [row(), row(gen=40), row(gen=80)]
    assert path.read_bytes().count(b"\n") == 3


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    append_rows(path, [row(), row(gen=40)])
    path.write_bytes(path.read_bytes()[:-10])
    assert read_rows(path) == [row()]
    append_rows(path, [row(gen=80)])
    assert read_rows(path) == [row(), row(gen=80)]


def test_a_file_that_is_one_cut_off_line(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_bytes(b'{"settings"')
    append_rows(path, [row()])
    assert read_rows(path) == [row()]


@pytest.mark.parametrize(
    "line", [b"{}", b"[]", b"3", b"nonsense", b"\xff\xfe", b'{"settings": {}, "measured": {}}', b""]
)
def test_another_file_is_refused(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    append_rows(path, [row()])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(SettingError, match=r"line 2 is not a row of `dkv bench`; give another file"):
        read_rows(path)


def test_what_cannot_be_read_or_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"file='.*' cannot be read \(Is a directory\)"):
        read_rows(tmp_path)
    with pytest.raises(SettingError, match=r"out=.* must be a file in a directory that exists"):
        append_rows(tmp_path, [row()])
