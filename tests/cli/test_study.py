"""`dkv study`: its list, a run, interruption and resumption, and its errors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dkv.lab.study.study_list import STUDIES
from tests.support.cli_fixtures import Cli, one_error
from tests.support.warm import program

PAGE = (Path(__file__).parent.parent.parent / "docs" / "study.md").read_text(encoding="utf-8")


@pytest.fixture
def common(checkpoint: Path, tmp_path: Path) -> list[str]:
    """Random weights, one example."""
    return ["--quick", "--count", "1", "--model", str(checkpoint), "--dtype", "float32", "--out", str(tmp_path / "out")]


def test_without_a_name_it_lists_the_studies(cli: Cli) -> None:
    printed = cli("study").stdout
    listed = json.loads(cli("study", "--json").stdout)["studies"]
    assert [study["name"] for study in listed] == list(STUDIES)
    assert all(f"{study['name']}\n    {study['claim']}\n" in printed for study in listed)


def test_a_run_and_what_it_leaves(cli: Cli, common: list[str], tmp_path: Path) -> None:
    done = cli("study", "similarity", "refresh", "similarity", *common)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    first, second, page = done.stdout.splitlines()
    assert re.fullmatch(r"similarity: cannot tell\. Cosine .*, n=1, p=1.*", first)
    assert second.startswith("refresh: ")
    assert page.endswith("index.html")
    out = tmp_path / "out"
    made = {path.name for path in out.iterdir()}
    assert {"similarity.jsonl", "similarity.png", "refresh.jsonl", "index.html", "verdicts.md"} < made
    answers = next(out.glob("answers.*.jsonl"))
    # none is shared: similarity has five policies, refresh four
    assert sum("tokens" in json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()) == 8
    sizes = {path: path.stat().st_size for path in out.glob("*.jsonl")}
    found = json.loads(cli("study", "similarity", *common, "--json").stdout)
    assert {path: path.stat().st_size for path in out.glob("*.jsonl")} == sizes
    assert [study["name"] for study in found["studies"]] == ["similarity"]
    assert len(found["studies"][0]["cells"]) == 5


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal there")
def test_ctrl_c_keeps_what_is_finished(cli: Cli, common: list[str], tmp_path: Path) -> None:
    answers = tmp_path / "out" / "answers.checkpoint.jsonl"
    command = ["study", "rho", "refresh", *common[:1], "--count", "6", *common[3:]]
    process = subprocess.Popen(
        [*program(), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        path = next((tmp_path / "out").glob("answers.*.jsonl"), answers)
        if path.exists() and path.read_bytes().count(b"\n") > 1:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, b"")
    assert re.fullmatch(
        rb"stopped; \d+ cells and \d+ answers are kept in .*; the same command goes on from there\n", said
    )
    kept = path.read_bytes()
    assert kept.endswith(b"\n")
    done = cli(*command)
    assert done.exit_code == 0, done.output
    assert path.read_bytes().startswith(kept)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("nope", "study='nope' is unknown; known: all, variants, "),
        ("rho --count 0", "count=0 must be a whole number of at least 1"),
        ("rho --out README.md", "out='README.md' cannot be a directory"),
        ("rho --model /no/such/model", "model='/no/such/model': no such directory"),
        ("rho --count many", "'--count': 'many' is not a whole number"),
        ("rho --device nope", "device='nope' is not available"),
    ],
)
def test_refused(cli: Cli, options: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").touch()
    assert expected in one_error(cli("study", *options.split(" ")))


@pytest.mark.usefixtures("built_once")
def test_another_seed_is_not_mixed_in(cli: Cli, common: list[str]) -> None:
    cli("study", "refresh", *common)
    assert "holds results with compile=None, not True" in one_error(cli("study", "refresh", *common, "--compile"))
    error = one_error(cli("study", "refresh", *common, "--seed", "1"))
    assert "refresh.jsonl' holds results with seed=0, not 1; give another directory" in error


def test_without_matplotlib(cli: Cli, common: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install 'dkv[plots]'" in one_error(cli("study", "rho", *common))


def test_the_page_tells_every_study_and_option(cli: Cli) -> None:
    told = cli("study", "--help").stdout
    for option in set(re.findall(r"--[a-z][a-z0-9-]+", PAGE)):
        assert option in told
    for name in STUDIES:
        assert f"| `{name}` | " in PAGE
