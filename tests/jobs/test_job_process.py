"""`dkv generate --input` as a process: killed, interrupted, out of disk. What was in the file stays in the file."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dkv.jobs.job import Job
from dkv.jobs.source import JobOptions
from tests.support.job_files import answers, prompts, results, write_lines
from tests.support.terminal import in_terminal
from tests.support.warm import program

Started = Callable[..., "subprocess.Popen[bytes]"]
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")


@pytest.fixture
def start(spoken: Path, tmp_path: Path) -> Started:
    """Start the job of an input of so many lines; with `rest`, further options. `file_size`: RLIMIT_FSIZE, bytes."""

    def call(lines: int, output: Path | str, *rest: str, file_size: int | None = None) -> subprocess.Popen[bytes]:
        def limit() -> None:
            if file_size is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

        return subprocess.Popen(
            [*program(), *command(spoken, tmp_path, lines, output), *rest],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=limit,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )

    return call


def command(model: Path, directory: Path, lines: int, output: Path | str) -> list[str]:
    source = directory / f"{lines}.jsonl"
    if not source.exists():
        write_lines(source, prompts(lines))
    settings = ["--gen-length", "8", "--batch-size", "3", "--seed", "1", "--dtype", "float32", "--device", "cpu"]
    return ["generate", "--input", str(source), "--output", str(output), "--model", str(model), *settings]


def in_one(model: Path, directory: Path, lines: int) -> dict[int, dict[str, Any]]:
    """The answers of the same job, done here and in one piece."""
    wanted = JobOptions(
        directory / f"{lines}.jsonl", directory / "one.jsonl", {"gen_length": 8}, str(model), "cpu", "float32", seed=1
    )
    with Job(wanted) as job:
        job.run(lambda _: None)
    return answers(wanted.output)


def finish(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    """Exit code, standard output, standard error."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def wait_for(path: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
    """Until the file has so many lines, or the process has ended."""
    while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < lines):
        time.sleep(0.002)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    finish(process)


def test_killed_while_it_writes_it_goes_on(start: Started, spoken: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    process = start(80, path)
    wait_for(path, 20, process)
    kill(process)
    kept = path.read_bytes()
    assert 20 <= kept.count(b"\n") < 80
    path.write_bytes(kept + b'{"line": 1')  # what the kernel may leave of a write that a power cut ended
    code, _, err = finish(start(80, path))
    assert (code, err.startswith(b"80 of 80 prompts")) == (0, True)
    assert path.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    assert answers(path) == in_one(spoken, tmp_path, 80)


@pytest.mark.slow
def test_killed_at_five_random_moments(start: Started, tmp_path: Path) -> None:
    path, whole, chance = tmp_path / "out.jsonl", tmp_path / "whole.jsonl", random.Random()
    began = time.monotonic()
    assert finish(start(600, whole))[0] == 0
    duration, kept = time.monotonic() - began, b""
    for _ in range(5):
        process = start(600, path)
        time.sleep(chance.uniform(0.3, 0.9) * duration)
        kill(process)
        content = path.read_bytes() if path.exists() else b""
        assert content.startswith(kept)
        kept = content[: content.rfind(b"\n") + 1]
    assert finish(start(600, path))[0] == 0
    assert path.read_bytes().startswith(kept)
    assert answers(path) == answers(whole)


def test_ctrl_c_says_what_is_kept(start: Started, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    process = start(400, path)
    wait_for(path, 5, process)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    count = len(results(path))
    assert (code, out) == (130, b"")
    *told, last = err.decode().splitlines()
    assert last == f"stopped; {count} results are in {path}; the same command goes on from there"
    assert all("of 400 prompts" in line for line in told)  # on a slow machine


@needs_full
def test_a_full_device_is_one_line(start: Started) -> None:
    code, out, err = finish(start(5, "/dev/full"))
    assert (code, out) == (2, b"")
    assert err == b"error: output='/dev/full' cannot be written (No space left on device); give another output\n"


@pytest.mark.slow
@needs_full
def test_standard_output_on_a_full_device_is_one_line(spoken: Path, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        arguments = command(spoken, tmp_path, 5, "-")
        ended = subprocess.run([*program(), *arguments], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr == b"error: output='-' cannot be written (No space left on device); give another output\n"


def test_a_file_that_may_not_grow_keeps_whole_lines_and_goes_on(start: Started, spoken: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    code, out, err = finish(start(40, path, file_size=3000))
    count = len(results(path))
    assert (code, out) == (2, b"")
    assert err.decode() == (
        f"error: output={str(path)!r} cannot be written (File too large); its {count} results are kept, and the same "
        "command goes on once it can\n"
    )
    assert 0 < count < 40
    kept = path.read_bytes()
    assert finish(start(40, path))[0] == 0
    assert path.read_bytes().startswith(kept)
    assert answers(path) == in_one(spoken, tmp_path, 40)


def test_answers_to_standard_output(start: Started, tmp_path: Path) -> None:
    code, out, err = finish(start(6, "-"))
    (tmp_path / "out").write_bytes(out)
    assert code == 0
    assert sorted(answers(tmp_path / "out")) == [1, 2, 3, 4, 5, 6]
    assert err.startswith(b"6 of 6 prompts, ")
    assert err.count(b"\n") == 1


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_news(start: Started) -> None:
    process = start(400, "-")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 1


def test_a_terminal_shows_how_far_it_is(spoken: Path, tmp_path: Path) -> None:
    code, written = in_terminal(command(spoken, tmp_path, 90, tmp_path / "out.jsonl"))
    assert code == 0
    assert b" of 90 prompts, " in written
    assert b" prompts/s, " in written
    assert b" tokens/s, " in written
    assert b" s left" in written
    assert b"90 of 90 prompts" in written
