"""`dkv tune`: what it prints and keeps, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli_fixtures import Cli

FEW = ["--count", "2", "--held-out", "2", "--cache", "none", "--cache", "dkv-decode", "--decoder", "threshold"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DKV_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.usefixtures("built_once")
def test_prompts_are_tuned_on_and_auto_uses_it(cli: Cli, checkpoint: Path, tmp_path: Path, home: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\nthree\nfour\n", encoding="utf-8")
    out = tmp_path / "out"
    options = ["--model", str(checkpoint), "--prompts", str(prompts), "--gen-length", "6", "--changed", "90", *FEW]
    result = cli("tune", *options, "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "budget: at most 90% of answers may change, at 95%, measured on 2 held-out examples" in result.stdout
    assert (out / "tune.png").exists()
    first = json.loads(cli("tune", *options, "--out", str(out), "--json").stdout)
    again = json.loads(cli("tune", *options, "--out", str(tmp_path / "other"), "--json").stdout)
    assert [a["trial"]["setting"] for a in first["attempts"]] == [a["trial"]["setting"] for a in again["attempts"]]
    assert "compile=None, not True" in cli("tune", *options, "--out", str(out), "--compile").stderr
    assert (first["kept"] is not None) == any(home.rglob("*.json"))
    if first["kept"]:
        assert cli("generate", "hi", "--model", str(checkpoint), "--gen-length", "4", "--cache", "auto").exit_code == 0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--changed", "1", "--lost", "1"], "changed and lost exclude each other"),
        (["--changed", "0"], "changed=0 must lie between 0 and 100 percent"),
        (["--lost", "100"], "lost=100 must lie between 0 and 100 percent"),
        (["--count", "0"], "count=0 must be a whole number of at least 1"),
        (["--tasks", "nothing"], "tasks='nothing': 'nothing' is unknown"),
        (["--cache", "nothing"], "unknown name 'nothing'"),
        (["--decoder", "nothing"], "unknown name 'nothing'"),
        (["--prompts", "absent.txt"], "lost: prompts have no right answers to lose"),
        (["--prompts", "absent.txt", "--changed", "1"], "prompts='absent.txt': No such file"),
        (["--count", "399"], "examples are fewer than count=399 and held_out=100 together"),
    ],
)
def test_what_is_refused(cli: Cli, options: list[str], line: str, tmp_path: Path) -> None:
    result = cli("tune", *options, "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert line in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
