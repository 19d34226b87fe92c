"""A batch job on Ray Data workers: the same answers as without, a killed worker's included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.job_files import answers, prompts, write_lines
from tests.support.ray_family import descendants, gone

pytest.importorskip("ray")

COMMON = ["--gen-length", "8", "--batch-size", "2", "--seed", "1", "--dtype", "float32", "--device", "cpu"]


class Job:
    """`dkv generate --input --ray` with two workers, in a process of its own."""

    def __init__(self, model: Path, source: Path, output: Path) -> None:
        command = ["generate", "--input", str(source), "--output", str(output), "--model", str(model)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dkv", *command, *COMMON, "--ray", "--workers", "2"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "RAY_memory_monitor_refresh_ms": "0"},
        )
        self.output = output
        self.family: list[int] = []

    def wait_for(self, lines: int) -> None:
        """Until the output has so many."""
        while self.process.poll() is None and self.lines < lines:
            time.sleep(0.05)

    @property
    def lines(self) -> int:
        return self.output.read_bytes().count(b"\n") if self.output.exists() else 0

    def end(self) -> None:
        """Kill what is left of it: of a killed job two of Ray's agents stay behind."""
        family = {*self.family, *descendants(self.process.pid)}
        self._stop()
        for process in family:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        assert gone(list(family))

    def kill(self) -> None:
        """As `kill -9` does."""
        self.family = descendants(self.process.pid)
        workers = descendants(self.process.pid, "ray::MapWorker")
        self._stop()
        assert gone(workers)

    def _stop(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()

    def finish(self) -> tuple[int, str]:
        """Exit code and last line."""
        _, err = self.process.communicate(timeout=240)
        return self.process.returncode, err.strip().splitlines()[-1]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "in.jsonl", prompts(60))


@pytest.fixture
def started(spoken: Path, source: Path, tmp_path: Path) -> Iterator[Job]:
    job = Job(spoken, source, tmp_path / "out.jsonl")
    yield job
    job.end()


def alone(model: Path, source: Path, output: Path) -> dict[int, dict[str, object]]:
    command = ["generate", "--input", str(source), "--output", str(output), "--model", str(model)]
    subprocess.run([sys.executable, "-m", "dkv", *command, *COMMON], check=True, capture_output=True)
    return answers(output)


def test_a_killed_worker_loses_nothing(started: Job, spoken: Path, source: Path, tmp_path: Path) -> None:
    started.wait_for(1)
    workers = descendants(started.process.pid, "ray::MapWorker")
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    code, last = started.finish()
    assert (code, last.startswith("60 of 60 prompts")) == (0, True)
    assert answers(started.output) == alone(spoken, source, tmp_path / "alone.jsonl")


def test_a_killed_job_goes_on_without_ray(started: Job, spoken: Path, source: Path, tmp_path: Path) -> None:
    started.wait_for(1)
    started.kill()
    kept = started.output.read_bytes()
    assert 0 < kept.count(b"\n") < 60
    assert alone(spoken, source, started.output) == alone(spoken, source, tmp_path / "alone.jsonl")
    assert started.output.read_bytes().startswith(kept)


def test_a_bad_line_is_found_before_anything_is_run(spoken: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [*prompts(3), {"prompt": "x", "gen_length": 8, "block_length": 3}])
    job = Job(spoken, source, tmp_path / "out.jsonl")
    try:
        code, last = job.finish()
    finally:
        job.end()
    assert code == 2
    assert last.startswith("error: input: line 4: gen_length=8 must be a multiple of block_length=3")
    assert not (tmp_path / "out.jsonl").exists()
