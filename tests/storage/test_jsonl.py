"""What is kept survives every way to end, and results of different origin never mix."""

from __future__ import annotations

from pathlib import Path

import pytest

from dkv.errors import SettingError
from dkv.storage.jsonl import LineFile, Store, StoreFormat, open_alone

COMMON = {"model": "m", "seed": 0}
KIND = StoreFormat("dkv-eval 1", "dkv eval")


def test_what_was_put_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Store(path, COMMON, KIND) as store:
        store.put({"a": {"text": "ä\n"}, "b": {"text": ""}})
        store.put({})
    with Store(path, COMMON, KIND) as store:
        assert len(store) == 2
        assert "a" in store
        assert "c" not in store
        assert store.get("a")["text"] == "ä\n"
        store.put({"c": {"text": "c"}})
    assert len(path.read_text(encoding="utf-8").splitlines()) == 4


def test_it_is_written_at_once(tmp_path: Path) -> None:
    with Store(tmp_path / "out.jsonl", COMMON, KIND) as store:
        store.put({"a": {"text": "x"}})
        assert (tmp_path / "out.jsonl").read_bytes().endswith(b'{"key": "a", "text": "x"}\n')


@pytest.mark.parametrize("torn", [b'{"key": "b", "te', b"{", b'{"key": "b"}'])
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "out.jsonl"
    with Store(path, COMMON, KIND) as store:
        store.put({"a": {}})
    with path.open("ab") as file:
        file.write(torn)
    with Store(path, COMMON, KIND) as store:
        assert "a" in store
        assert "b" not in store
        store.put({"c": {}})
    with Store(path, COMMON, KIND) as store:
        assert len(store) == 2


def test_a_torn_header_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"format": "dkv')
    with Store(path, COMMON, KIND) as store:
        store.put({"a": {}})
    with Store(path, COMMON, KIND) as store:
        assert "a" in store


def test_other_results_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    Store(path, COMMON, KIND).__exit__(None, None, None)
    with pytest.raises(SettingError, match="holds results with seed=0, not 1; give another file"):
        Store(path, {**COMMON, "seed": 1}, KIND)


@pytest.mark.parametrize("content", [b"my notes\n", b"my notes", b'{"a": 1}\n', b'{"a": 1}', b"[1]\n"])
def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(SettingError, match="line 1 is not of a result file"):
        Store(path, COMMON, KIND)
    assert path.read_bytes() == content


def test_damage_inside_is_named(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Store(path, COMMON, KIND) as store:
        store.put({"a": {}})
    path.write_bytes(path.read_bytes() + b"{broken}\n")
    with pytest.raises(SettingError, match="line 3 is not of a result file"):
        Store(path, COMMON, KIND)


def test_two_runs_do_not_share_a_file(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with Store(tmp_path / "out.jsonl", COMMON, KIND), pytest.raises(SettingError, match="being written by another run"):
        Store(tmp_path / "out.jsonl", COMMON, KIND)


@pytest.mark.parametrize("place", ["", "no/such/place.jsonl"])
def test_a_place_that_cannot_be(tmp_path: Path, place: str) -> None:
    with pytest.raises(SettingError, match="must be a file in a directory that exists"):
        Store(tmp_path / place, COMMON, KIND)


def test_without_a_path_it_is_memory() -> None:
    with Store(None, COMMON, KIND) as store:
        store.put({"a": {"x": 1}})
        assert store.get("a") == {"key": "a", "x": 1}


@pytest.mark.parametrize("content", [b"", b"a", b"a\n", b"a\nb", b"\n" + b"x" * 70_000, b"y" * 70_000 + b"\n" + b"x"])
def test_whole_lines_end_with_the_last_line_end(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with open_alone("out", tmp_path / "f", "") as file:
        lines = LineFile(file)
        assert lines.size == content.rfind(b"\n") + 1
        assert b"".join(lines.lines()) == content[: lines.size]
        whole = content[: lines.size]
        lines.drop_cut_line()
        lines.append([{"a": 1}])
    assert (tmp_path / "f").read_bytes() == whole + b'{"a": 1}\n'
