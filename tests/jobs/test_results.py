"""Answers that are in the file stay there, whatever ends the run, and only the same job goes on with them."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from dkv.errors import SettingError
from dkv.jobs.results import Results, begun_with, noted_beside
from tests.support.job_files import results

HEADER = {"input": "d", "seed": 0}


def count(path: Path) -> int:
    with Results(path, 9, HEADER) as found:
        return found.count


def filled(path: Path, lines: int = 2) -> Path:
    with Results(path, 9, HEADER) as found:
        found.put([{"line": number, "text": "ä\u2028"} for number in range(1, lines + 1)])
    return path


def test_answers_are_in_the_file_at_once_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Results(path, 9, HEADER) as found:
        found.put([{"line": 8, "text": "ä\u2028\n"}, {"line": 3, "text": ""}])
        assert [record["line"] for record in results(path)] == [8, 3]
        assert [number for number in range(1, 10) if number in found] == [3, 8]
    with Results(path, 9, HEADER) as found:
        assert found.count == 2
        found.put([{"line": 3, "text": "again"}, {"line": 9, "text": "new"}])
        assert found.count == 3
    assert [record["text"] for record in results(path)] == ["ä\u2028\n", "", "new"]


@pytest.mark.parametrize("torn", [b'{"line": 3, "te', b"{", b'{"line": 3}', b"\0\0\0"])
def test_a_torn_last_line_is_cut(tmp_path: Path, torn: bytes) -> None:
    path = filled(tmp_path / "out.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with Results(path, 9, HEADER) as found:
        assert (found.count, 3 in found) == (2, False)
        assert path.read_bytes() == whole
        found.put([{"line": 3}])
    assert [record["line"] for record in results(path)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("header", "message"),
    [({"input": "e", "seed": 0}, "of another input"), ({"input": "d", "seed": 1}, "with seed=0, not 1")],
)
def test_another_job_is_refused_and_nothing_touched(tmp_path: Path, header: dict[str, object], message: str) -> None:
    path = filled(tmp_path / "out.jsonl")
    before = path.read_bytes()
    with pytest.raises(SettingError, match=message):
        Results(path, 9, header)
    assert path.read_bytes() == before
    assert count(path) == 2  # nor is it still locked


def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes, no line end", encoding="utf-8")
    with pytest.raises(SettingError, match=r"is not empty and has no sound notes\.txt\.run\.json beside it"):
        Results(path, 9, HEADER)
    assert path.read_text(encoding="utf-8") == "my notes, no line end"


@pytest.mark.parametrize("line", ["x", "[]", "{}", '{"line": 0}', '{"line": 10}', '{"line": true}', '{"line": "1"}'])
def test_a_line_that_is_no_result_is_refused(tmp_path: Path, line: str) -> None:
    path = filled(tmp_path / "out.jsonl")
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(SettingError, match="line 3 is not a result of this job"):
        Results(path, 9, HEADER)


def test_notes_without_answers_do_not_bind(tmp_path: Path) -> None:
    path = filled(tmp_path / "out.jsonl")
    path.unlink()
    assert begun_with(path) is None
    with Results(path, 9, {"input": "other"}) as found:
        found.put([{"line": 1}])
    assert json.loads(noted_beside(path).read_bytes())["input"] == "other"


def test_without_an_answer_no_file_is_left(tmp_path: Path) -> None:
    with Results(tmp_path / "out.jsonl", 9, HEADER):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_that_was_there_is_left(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").touch()
    with Results(tmp_path / "out.jsonl", 9, HEADER):
        pass
    assert (tmp_path / "out.jsonl").exists()


def test_two_runs_cannot_write_one_file(tmp_path: Path) -> None:
    with Results(tmp_path / "out.jsonl", 9, HEADER), pytest.raises(SettingError, match="is being written by another"):
        Results(tmp_path / "out.jsonl", 9, HEADER)


def test_a_disk_that_fills_up_within_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = filled(tmp_path / "out.jsonl")
    whole, write = path.read_bytes(), os.write
    room = [5]

    def full(file: int, data: bytes | memoryview) -> int:
        taken = min(room[0], len(data))
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= taken
        return write(file, data[:taken])

    with Results(path, 9, HEADER) as found:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(SettingError, match=r"No space left on device\); its 2 results are kept"):
            found.put([{"line": 3, "text": "long enough"}])
        assert path.read_bytes() == whole
        assert 3 not in found
        room[0] = 1000
        found.put([{"line": 3, "text": "long enough"}])  # a short write is gone on with
    assert [record["line"] for record in results(path)] == [1, 2, 3]


def test_an_output_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="must be a file in a directory that exists"):
        Results(tmp_path / "none" / "out.jsonl", 9, HEADER)
    with pytest.raises(SettingError, match="must be a file in a directory that exists"):
        Results(tmp_path, 9, HEADER)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "out.jsonl")
    filled(tmp_path / "link")
    assert count(tmp_path / "there" / "out.jsonl") == 2
