"""benchmarks/gpu.py runs on a CPU, weighs the steps that it times, and passes over what does not fit."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
SMALL = ["--device", "cpu", "--dtype", "float32", "--prompts", "16", "--gens", "16"]


def run(out: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """The program's end, and the rows that it wrote."""
    command = [sys.executable, str(PROGRAM), *SMALL, "--out", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    rows = [json.loads(text) for text in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []
    return done, rows


def test_every_cache_has_its_row(tmp_path: Path) -> None:
    done, rows = run(tmp_path / "gpu.jsonl", "--shape", "micro", "--batches", "1", "2", "--block", "8")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert [row["batch"] for row in rows] == [1] * 7 + [2] * 7
    assert rows[0]["cache"] == rows[7]["cache"] == "none"
    for row in rows:
        assert row["steps"] == sum(kind["steps"] for kind in row["kinds"]) == 16
        assert all(kind["seconds"] for kind in row["kinds"])
        assert row["seconds"] > row["bound_seconds"] > 0
        assert row["tokens_per_second"] == pytest.approx(row["batch"] * 16 / row["seconds"])
    none, decode = rows[0], rows[1]
    assert none["rows_per_step"] == 32
    assert len(none["kinds"]) == 1
    # 2 warm-ups and refreshes at 8 of 32 rows (clock 0, 1, 8, 9: a block's), else masked ones and what was just fixed.
    full = next(kind for kind in decode["kinds"] if kind["rows"] == 32)
    assert 2 <= full["steps"] < 8
    assert decode["rows_per_step"] < none["rows_per_step"]
    assert done.stdout.count("\n") >= 16


Here = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """Run the program in this process; the rows that it wrote."""
    monkeypatch.syspath_prepend(str(PROGRAM.parent))

    def call(*arguments: str) -> list[dict[str, Any]]:
        out = tmp_path / "gpu.jsonl"
        monkeypatch.setattr(sys, "argv", [str(PROGRAM), *SMALL, "--out", str(out), *arguments])
        runpy.run_path(str(PROGRAM), run_name="__main__")
        return [json.loads(text) for text in out.read_text(encoding="utf-8").splitlines()]

    return call


def test_dreams_shape_runs(here: Here) -> None:
    shape = "dream-7b,layers=2,width=64,heads=4,mlp_width=96,vocab=128"
    rows = here("--shape", shape, "--batches", "1", "--caches", "dllm-cache", "dkv-pd")
    assert [row["cache"] for row in rows] == ["none", "dllm-cache", "dkv-pd"]


def test_what_does_not_fit_is_passed_over(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert here("--shape", "micro", "--batches", "100000000", "--caches", "none") == []
    assert "skipped: needs about" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "macro"], "error: shape='macro': unknown name"),
        (["--ways", "graphs"], "error: ways=['graphs'] with graphs need device=cuda, not cpu"),
        (["--block", "5"], "error: gens=[16] must be multiples of block=5"),
    ],
)
def test_mistakes_are_one_line(here: Here, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        here(*arguments)
    assert str(caught.value.code).startswith(message)
    assert "\n" not in str(caught.value.code)
