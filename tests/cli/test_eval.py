"""`dkv eval`: its table and JSON, interruption and resumption, and its errors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dkv.lab.eval.eval_session import FEW, EvalOptions
from dkv.lab.eval.eval_table import ALL
from dkv.storage.sandbox import can_cut_network
from dkv.tiny import TASKS
from tests.support.cli_fixtures import Cli, one_error
from tests.support.warm import program

PAGE = (Path(__file__).parent.parent.parent / "docs" / "eval.md").read_text(encoding="utf-8")
SUMS = [{"question": f"What is {n} and {n}?", "answer": f"#### {n + n}"} for n in range(6)]


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in SUMS), encoding="utf-8")
    return path


@pytest.fixture
def common(checkpoint: Path, sums: Path, tmp_path: Path) -> list[str]:
    """Six sums for random weights."""
    where = ["--model", str(checkpoint), "--gsm8k", str(sums), "--out", str(tmp_path / "out.jsonl")]
    return ["eval", "--tasks", "gsm8k", *where, "--gen-length", "8", "--batch-size", "2", "--dtype", "float32"]


def results(printed: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(printed)["results"]
    return found


def test_json_pairs_every_cache_with_none(cli: Cli, common: list[str]) -> None:
    done = cli(*common, "--cache", "dkv-decode:refresh=1", "--cache", "dkv-prefill", "--json")
    none, exact, prefill = results(done.stdout)
    assert [r["cache"] for r in (none, exact, prefill)] == ["none", "dkv-decode:refresh=1", "dkv-prefill"]
    assert none["difference"] is None
    assert exact["agreement"]["value"] == 1.0
    assert exact["difference"]["value"] == 0.0
    assert {r["difference"]["count"] for r in (exact, prefill)} == {6}
    assert prefill["rows_share"] < none["rows_share"] == 1.0
    assert all(r["tokens_per_second"] > 0 or r["mean"] == 0 for r in (none, exact, prefill))
    assert json.loads(done.stdout)["dtype"] == "float32"
    assert done.stderr == ""


def test_tables(cli: Cli, common: list[str]) -> None:
    rich = cli(*common, "--cache", "dkv-pd")
    for part in ("gsm8k", "dkv-pd", "n=6", "against no cache", "tokens/s"):
        assert part in rich.stdout
    printed = cli(*common, "--cache", "dkv-pd", "--markdown").stdout
    assert printed.startswith("| task | decoder | cache | score | against no cache | agree | rows | tokens/s |\n| -")
    assert printed.count("\n") == 4


def test_a_few_of_each_embedded_task_are_the_default(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    options = ["--model", str(checkpoint), "--cache", "none", "--gen-length", "2", "--out", str(tmp_path / "out")]
    found = results(cli("eval", *options, "--json").stdout)
    assert [(r["task"], r["count"]) for r in found] == [*((task, FEW) for task in TASKS), (ALL, FEW * len(TASKS))]
    found = results(cli("eval", *options, "--count", "3", "--tasks", "words,words", "--json").stdout)
    assert [(r["task"], r["count"]) for r in found] == [("words", 3)]


def test_full_and_count_exclude_each_other(cli: Cli) -> None:
    assert "count=3 and full exclude each other" in one_error(cli("eval", "--full", "--count", "3"))


def test_full_takes_all_of_an_embedded_task() -> None:
    (suite,) = EvalOptions(tasks="words", full=True).suites()
    assert len(suite.problems) == 400


def test_finished_answers_are_not_asked_again(cli: Cli, common: list[str], tmp_path: Path) -> None:
    first = results(cli(*common, "--cache", "dkv-pd", "--count", "4", "--json").stdout)
    size = (tmp_path / "out.jsonl").stat().st_size
    assert results(cli(*common, "--cache", "dkv-pd", "--count", "4", "--json").stdout) == first
    assert (tmp_path / "out.jsonl").stat().st_size == size
    cli(*common, "--cache", "dkv-pd")
    assert (tmp_path / "out.jsonl").stat().st_size > size


def test_answers_of_packed_weights_have_a_file_of_their_own(cli: Cli, common: list[str], tmp_path: Path) -> None:
    asked = [*common, "--cache", "none", "--count", "2", "--json"]
    assert json.loads(cli(*asked).stdout)["quantize"] is None
    assert "quantize" in one_error(cli(*asked, "--quantize", "int8"))
    other = ["--out", str(tmp_path / "other.jsonl"), "--quantize", "int8"]
    assert json.loads(cli(*asked, *other).stdout)["quantize"] == "int8"
    assert "quantize" in one_error(cli(*asked, *other[:2]))


@pytest.mark.usefixtures("built_once")
def test_answers_of_compiled_code_have_a_file_of_their_own(cli: Cli, common: list[str], tmp_path: Path) -> None:
    asked = [*common, "--cache", "none", "--count", "2", "--json"]
    assert "compile" not in json.loads(cli(*asked).stdout)
    assert "compile" in one_error(cli(*asked, "--compile"))
    other = ["--out", str(tmp_path / "other.jsonl"), "--compile"]
    assert json.loads(cli(*asked, *other).stdout)["compile"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal there")
def test_ctrl_c_keeps_what_is_finished(cli: Cli, common: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    options = [*common, "--gen-length", "128", "--cache", "dkv-prefill"]
    process = subprocess.Popen(
        [*program(), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 60
    while not (out.exists() and out.read_bytes().count(b"\n") > 1) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, b"")
    assert said.startswith(b"stopped; ")
    assert said.endswith(b"the same command goes on from there\n")
    kept = out.read_bytes()
    assert 1 < kept.count(b"\n") < 12
    assert kept.endswith(b"\n")
    found = results(cli(*options, "--json").stdout)
    assert [r["count"] for r in found] == [6, 6]
    assert out.read_bytes().startswith(kept)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--count 0", "count=0 must be a whole number of at least 1"),
        ("--batch-size 0", "batch_size=0"),
        ("--gen-length 0", "gen_length=0"),
        ("--mc-samples 0", "mc_samples=0"),
        ("--cache nope", "unknown name 'nope'; known: dkv-decode"),
        ("--decoder nope", "unknown name 'nope'; known: confidence"),
        ("--tasks ,", "tasks=',' names none"),
        ("--block-length 3", "gen_length=8 must be a multiple of block_length=3"),
        ("--cfg-scale -1", "cfg_scale=-1.0"),
        ("--markdown --json", "markdown and json exclude each other"),
        ("--gsm8k /no/such/file", "gsm8k='/no/such/file': No such file"),
        ("--out /no/such/place/x", "must be a file in a directory that exists"),
        ("--count many", "'--count': 'many' is not a whole number"),
        ("--chat", "chat=True: this checkpoint has no chat template"),
    ],
)
def test_refused(cli: Cli, common: list[str], options: str, expected: str) -> None:
    assert expected in one_error(cli(*common, *options.split(" ")))


def test_code_is_run_only_with_consent(cli: Cli, common: list[str], tmp_path: Path) -> None:
    path = tmp_path / "functions.jsonl"
    record = {"prompt": "def f():\n", "test": "def check(f):\n    f()\n", "entry_point": "f"}
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    error = one_error(cli(*common, "--tasks", "humaneval", "--humaneval", str(path)))
    assert "allow it with --execute-code" in error


@pytest.mark.skipif(not can_cut_network(), reason="this system cannot cut a program off the network")
def test_code_is_run_with_consent(cli: Cli, common: list[str], tmp_path: Path) -> None:
    path = tmp_path / "functions.jsonl"
    record = {"prompt": "def f():\n    return 0\n", "test": "def check(f):\n    assert f() == 0\n", "entry_point": "f"}
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    options = ["--tasks", "humaneval", "--humaneval", str(path), "--execute-code", "--cache", "none", "--json"]
    (found,) = results(cli(*common, *options).stdout)
    assert (found["task"], found["count"]) == ("humaneval", 1)


def test_the_options_of_the_page_exist(cli: Cli) -> None:
    told = cli("eval", "--help").stdout
    for option in set(re.findall(r"--[a-z][a-z0-9-]+", PAGE.partition("## lm-eval")[0])):
        assert option in told


def test_results_of_another_run_are_not_mixed_in(cli: Cli, common: list[str]) -> None:
    cli(*common, "--cache", "none")
    assert "holds results with seed=0, not 1" in one_error(cli(*common, "--cache", "none", "--seed", "1"))


def test_a_task_of_lm_eval_without_lm_eval(cli: Cli, common: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    error = one_error(cli(*common, "--tasks", "word"))
    assert error.startswith("error: tasks: 'word' is no task of dkv (code, ")
    assert error.rstrip().endswith("not installed: pip install 'dkv[eval]'")
