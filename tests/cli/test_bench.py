"""`dkv bench` and `dkv report`: what they print, keep and refuse, and that an interrupt loses nothing that was done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dkv.cli.benchrun import BenchProgress, spelled
from dkv.lab.bench.roofline import Rates
from tests.support.cli_fixtures import Cli, one_error
from tests.support.terminal import HIDE, SHOW, in_terminal
from tests.support.warm import program

SMALL = ["--prompt-length", "4", "--gen-length", "4,8", "--block-length", "4", "--repeats", "1", "--dtype", "float32"]
FEW = ["--cache", "dkv-decode", "--cache", "fast-dual"]
MICRO = ["bench", "--shape", "micro,layers=2", *SMALL, *FEW]


@pytest.fixture
def quick_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do without seconds of measuring what this machine can do at best, once a run."""
    monkeypatch.setattr("dkv.lab.bench.bench_session.measure_rates", lambda *_: Rates(1e9, 1e9))


def test_a_shape_is_measured_and_reported(cli: Cli, tmp_path: Path) -> None:
    out, page = tmp_path / "b.jsonl", tmp_path / "r.html"
    ran = cli(*MICRO, "--baseline", "ar", "--out", str(out))
    assert ran.exit_code == 0, ran.output
    assert ran.stderr == ""
    assert "shape:micro,layers=2, float32, prompt 4, gen 8, batch 1" in ran.stdout
    for text in ("dkv-decode", "fast-dual", "autoregressive"):
        assert text in ran.stdout
    for text in ("tokens/s", "of AR", "gen^exponent", f"8 rows in {out}"):
        assert text in ran.stdout
    assert "J/token" not in ran.stdout or Path("/sys/class/powercap").exists()
    reported = cli("report", str(out), "--out", str(page), "--json")
    assert json.loads(reported.stdout)["rows"] == 8
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert json.loads(reported.stdout)["plots"][0] == str(tmp_path / "r.throughput-0.png")


@pytest.mark.usefixtures("quick_rates")
def test_what_is_there_is_not_run_again(cli: Cli, tmp_path: Path) -> None:
    arguments = [*MICRO, "--out", str(tmp_path / "b.jsonl"), "--json"]
    first = json.loads(cli(*arguments).stdout)
    before = (tmp_path / "b.jsonl").read_bytes()
    again = cli(*arguments)
    assert json.loads(again.stdout) == first
    assert (tmp_path / "b.jsonl").read_bytes() == before
    assert [row["settings"]["cache"] for row in first["rows"]] == ["none", "dkv-decode", "fast-dual"] * 2
    assert first["exponents"][0]["cache"] == "none"
    assert {row["settings"]["decoder"] for row in first["rows"]} == {"confidence"}


@pytest.mark.usefixtures("quick_rates")
def test_packed_weights_are_other_rows_of_the_same_file(cli: Cli, tmp_path: Path) -> None:
    arguments = [*MICRO[:-2], "--out", str(tmp_path / "b.jsonl")]
    plain = json.loads(cli(*arguments, "--json").stdout)["rows"]
    packed = json.loads(cli(*arguments, "--quantize", "int8", "--json").stdout)["rows"]
    assert all("quantize" not in row["settings"] for row in plain)
    assert {row["settings"]["quantize"] for row in packed} == {"int8"}
    assert packed[0]["measured"]["weight_bytes"] < plain[0]["measured"]["weight_bytes"]
    assert packed[0]["measured"]["cache_bytes"] == plain[0]["measured"]["cache_bytes"]
    assert "shape:micro,layers=2, float32, int8, prompt 4" in cli(*arguments, "--quantize", "int8").stdout


@pytest.mark.usefixtures("built_once", "quick_rates")
def test_compiled_rows_are_other_rows_of_the_same_file(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    """Of a shape, and of a checkpoint."""
    given = ["bench", "--model", str(checkpoint), *SMALL, "--cache", "none"]
    for arguments in ([*MICRO[:-2]], given):
        arguments += ["--out", str(tmp_path / "b.jsonl")]
        plain = json.loads(cli(*arguments, "--json").stdout)["rows"]
        compiled = json.loads(cli(*arguments, "--compile", "--json").stdout)["rows"]
        assert all("compile" not in row["settings"] for row in plain)
        assert all(row["settings"]["compile"] for row in compiled)
        assert json.loads(cli(*arguments, "--json").stdout)["rows"] == plain
        assert "float32, compiled, prompt" in cli(*arguments, "--compile").stdout


@pytest.mark.usefixtures("quick_rates")
def test_a_checkpoint(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["bench", "--model", str(checkpoint), *SMALL, "--cache", "none", "--stop-at-eos", "--batch", "1,2"]
    rows = json.loads(cli(*arguments, "--out", str(tmp_path / "b.jsonl"), "--json").stdout)["rows"]
    assert [row["settings"]["batch"] for row in rows] == [1, 2, 1, 2]
    assert all(row["settings"]["stop_at_eos"] for row in rows)
    assert {row["measured"]["agreement"] for row in rows} == {1.0}


def test_counting_a_large_shape_takes_no_model(cli: Cli, tmp_path: Path) -> None:
    arguments = ["bench", "--shape", "llada-8b", "--prompt-length", "64", "--gen-length", "16", "--block-length", "16"]
    counted = cli(*arguments, "--cache", "dllm-cache", "--repeats", "0", "--out", str(tmp_path / "b.jsonl"))
    assert counted.exit_code == 0, counted.output
    assert "FLOPs saved" in counted.stdout
    assert "tokens/s" not in counted.stdout


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--prompt-length 0", "prompt_length='0': '0' is not a whole number of at least 1; write prompt_length=64,256"),
        ("--gen-length 8,", "gen_length='8,': '' is not a whole number"),
        ("--batch x", "batch='x'"),
        ("--repeats -1", "repeats=-1 must be a whole number of at least 0"),
        ("--gen-length 12 --block-length 8", "use gen_length=16"),
        ("--cache nope", "unknown name 'nope'"),
        ("--decoder nope", "unknown name 'nope'"),
        ("--dtype float32,nope", "dtype='nope'"),
        ("--device nope", "device='nope'"),
        ("--baseline gpt", "baseline='gpt' is unknown; known: ar"),
        ("--shape nope", "unknown name 'nope'; known: dream-7b"),
        ("--shape micro --model x", "give one of the two"),
        ("--model /no/such/place", "no such directory"),
        ("--prompt-length 100000", "beyond the model's context"),
        ("--out /no/such/place/b.jsonl", "a file in a directory that exists"),
    ],
)
def test_refused(cli: Cli, tmp_path: Path, options: str, expected: str) -> None:
    given = options.split(" ")
    out = [] if "--out" in given else ["--out", str(tmp_path / "b.jsonl")]
    assert expected in one_error(cli("bench", *out, *given))
    assert not (tmp_path / "b.jsonl").exists()


def test_report_refuses_what_is_no_benchmark(cli: Cli, tmp_path: Path) -> None:
    other, empty = tmp_path / "other.jsonl", tmp_path / "empty.jsonl"
    other.write_text("hello\n")
    empty.write_text("")
    assert "line 1 is not a row" in one_error(cli("report", str(other)))
    assert "holds no rows" in one_error(cli("report", str(empty)))
    assert "does not exist; `dkv bench --out" in one_error(cli("report", str(tmp_path / "missing")))
    assert "in a directory that exists" in one_error(cli("report", str(other), "--out", str(tmp_path)))


@pytest.mark.usefixtures("quick_rates")
def test_report_without_matplotlib_says_what_to_install(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*MICRO, "--repeats", "0", "--out", str(tmp_path / "b.jsonl")).exit_code == 0
    monkeypatch.delitem(sys.modules, "dkv.lab.common.plots", raising=False)
    for name in ("matplotlib", "matplotlib.axes", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "pip install 'dkv[plots]'" in one_error(cli("report", str(tmp_path / "b.jsonl")))


@pytest.mark.parametrize("command", ["bench", "report"])
def test_help_imports_no_torch(command: str) -> None:
    code = f"import sys, dkv.cli; sys.argv[1:] = [{command!r}, '--help']; dkv.cli.main(); print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert ended.stdout.endswith(b"False\n")


def test_ctrl_c_keeps_what_is_done_and_the_next_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "b.jsonl"
    command = [*program(), "bench", "--shape", "micro", "--cache", "none", "--repeats", "1", "--json"]
    command += ["--gen-length", "4,4000", "--block-length", "4", "--prompt-length", "4", "--out", str(out)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ})
    until = time.monotonic() + 60
    while not (out.exists() and out.read_bytes()) and time.monotonic() < until:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    printed, complained = running.communicate(timeout=60)
    assert (running.returncode, printed, complained) == (130, b"", b"")
    before = out.read_bytes()
    assert before.count(b"\n") == 1
    command[command.index("4,4000")] = "4,8"
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert out.read_bytes().startswith(before)
    assert out.read_bytes().count(b"\n") == 2


def test_ctrl_c_on_a_terminal_leaves_it_clean(tmp_path: Path) -> None:
    arguments = ["bench", "--shape", "micro", "--cache", "none", "--gen-length", "4000", "--block-length", "4"]
    arguments += ["--prompt-length", "4", "--out", str(tmp_path / "b.jsonl")]
    code, written = in_terminal(arguments, b"group 1 of 1")
    assert code == 130
    assert b"Traceback" not in written
    assert written.rfind(SHOW) > written.rfind(HIDE) >= 0


def test_progress_tells_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = BenchProgress([100, 300], began=100.0)
    assert progress.left(0) is None
    now[0] = 110.0
    assert progress.left(0.5) == pytest.approx(70.0)
    progress.done = 1
    assert progress.share(0.5) == pytest.approx(0.625)
    assert progress.left(0) == pytest.approx(30.0)


@pytest.mark.parametrize(("seconds", "text"), [(3.4, "3 s"), (59, "59 s"), (90, "2 min"), (7300, "2 h 2 min")])
def test_durations(seconds: float, text: str) -> None:
    assert spelled(seconds) == text
