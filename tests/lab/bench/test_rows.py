"""Figures by hand, rows that come back as they went, and a file that keeps them, whatever happened to its end."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from dkv import SettingError
from dkv.lab.bench.rows import BenchRow, RepeatSpread, append_rows, read_rows, spread_of
from tests.support.bench_samples import ENVIRONMENT, UNTIMED, row


def test_medians_with_lowest_and_highest() -> None:
    assert spread_of([3.0, 1.0, 2.0]) == RepeatSpread(2.0, 1.0, 3.0)
    assert spread_of([]) is None


def test_figures() -> None:
    one = row()
    assert one.tokens_per_second == RepeatSpread(5.0, 2.5, 10.0)
    assert one.seconds_per_step == RepeatSpread(0.1, 0.05, 0.2)
    assert one.cpu_per_step == RepeatSpread(0.05, 0.05, 0.1)
    assert one.speedup == RepeatSpread(2.0, 1.0, 4.0)
    assert one.cpu_speedup == RepeatSpread(3.0, 1.0, 4.0)
    assert one.flops_saved == 3.0
    assert one.roofline == RepeatSpread(4.0, 2.0, 8.0)
    assert one.attained == RepeatSpread(25.0, 12.5, 50.0)
    assert one.flops_share == pytest.approx(2 / 3)
    assert one.joules_per_token == RepeatSpread(2.0, 1.0, 3.0)


def test_no_cache_saves_nothing_and_what_takes_longer_attains_less() -> None:
    assert row({"flops": row().result.none_flops}).flops_share == 0.0
    slower = row({"seconds": [2 * s for s in row().result.seconds]}).attained
    assert slower is not None
    assert slower.median == pytest.approx(12.5)


def test_the_gap_is_per_position_where_the_canvas_is_filled_and_else_per_token() -> None:
    assert row().gap == RepeatSpread(2.0, 1.0, 4.0)  # 40 positions each
    assert row(stop_at_eos=True).gap == RepeatSpread(8.0, 4.0, 16.0)  # 10 tokens against 40
    assert row({"ar_seconds": None}).gap is None
    assert row({"new_tokens": 0}, stop_at_eos=True).gap is None


def test_what_was_not_measured_is_blank() -> None:
    assert {name for name, value in row(UNTIMED).figures.items() if value is not None} == {"flops_saved"}
    assert row({"joules": None}).joules_per_token is None
    assert row({"new_tokens": 0}).joules_per_token is None


@pytest.mark.parametrize(("kind", "compiled"), [(None, False), ("int4", True)])
def test_a_row_survives_a_file(kind: str | None, compiled: bool) -> None:
    one = row(quantize=kind, compile=compiled)
    assert BenchRow.read(json.loads(json.dumps(one.record))) == one
    assert one.record["settings"].get("quantize") == kind
    assert ("quantize" in one.record["settings"]) == (kind is not None)  # as in files from before
    assert one.record["settings"].get("compile", False) == compiled
    assert ("compile" in one.record["settings"]) == compiled
    assert one.record["cache"] == "dkv-decode:refresh=8,delay=1,shift=un_right"
    assert one.record["figures"]["speedup"] == asdict(RepeatSpread(2.0, 1.0, 4.0))


@pytest.mark.parametrize(
    "change",
    [
        {"gen": 40},
        {"cache": "none"},
        {"threads": 2},
        {"repeats": 1},
        {"seed": 1},
        {"quantize": "int8"},
        {"compile": True},
    ],
)
def test_other_settings_are_another_row(change: dict[str, Any]) -> None:
    assert row().key == row().key
    assert row(**change).key != row().key


def test_another_version_is_another_row_and_another_machine_is_not() -> None:
    newer = replace(row(), environment={**ENVIRONMENT, "versions": {**ENVIRONMENT["versions"], "torch": "9"}})
    moved = replace(row(), environment={**ENVIRONMENT, "machine": {}})
    assert newer.key != row().key == moved.key


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
