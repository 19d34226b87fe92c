"""The lines of an input: numbered, lazily read, and known again by their digest."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from dkv.errors import SettingError
from dkv.jobs.source import Source, SourceLine


def nothing(_: SourceLine) -> None:
    pass


def test_blank_lines_count_as_places_but_not_as_prompts(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\n{"a": 1}\n  \n{"b": "\xe2\x80\xa8"}\r\n{"c": 3}')
    seen: list[SourceLine] = []
    source = Source(path, seen.append)
    assert seen == list(source.lines())
    assert [line.number for line in seen] == [2, 4, 5]
    assert (source.count, source.last) == (3, 5)


def test_a_gzipped_file_is_the_same_input(tmp_path: Path) -> None:
    plain, zipped = tmp_path / "in.jsonl", tmp_path / "in.jsonl.gz"
    plain.write_bytes(b"{}\n{}\n")
    zipped.write_bytes(gzip.compress(b"{}\n{}\n"))
    assert Source(plain, nothing).digest == Source(zipped, nothing).digest


@pytest.mark.parametrize("other", [b"{}\n", b"{}\n\n{}\n", b"{}\n{ }\n", b"{}\n{}\n{}\n"])
def test_other_lines_or_places_are_another_input(tmp_path: Path, other: bytes) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_bytes(b"{}\n{}\n")
    two.write_bytes(other)
    assert Source(one, nothing).digest != Source(two, nothing).digest


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "blank").write_text("\n \n", encoding="utf-8")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"{}\n" * 1000)[:30])
    for name, message in [
        ("none", "does not exist"),
        (".", "is no file that can be read twice"),
        ("blank", "holds no prompts"),
        ("cut.gz", "give a JSONL file"),
    ]:
        with pytest.raises(SettingError, match="^input=.*" + message):
            Source(tmp_path / name, nothing)
    with pytest.raises(SettingError, match="input='-' is no file that can be read twice"):
        Source(Path("-"), nothing)
