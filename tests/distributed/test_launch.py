"""Ranks that end as they should, that fail, and that are killed: one line, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dkv.distributed.launch import launch
from dkv.errors import RankError, SettingError
from tests.support.ranks import fail, leave, unsendable, whoami


def test_the_first_rank_answers_for_all(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(2, whoami, "hello") == ("hello", "0", "2", [2, 1])
    assert capfd.readouterr() == ("noise of rank 0\n", "")


def test_an_error_of_every_rank_is_raised_once() -> None:
    with pytest.raises(SettingError) as caught:
        launch(2, fail, True)
    assert str(caught.value) == "gen_length=0 is nonsense"


def test_an_error_of_one_rank_is_raised_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        launch(2, fail, False)
    assert (caught.value.errno, caught.value.filename) == (28, "a/file")
    assert "in fail" in caught.value.__notes__[0]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("how", "said"), [(signal.SIGKILL, "was ended by SIGKILL"), (0, "ended with exit code 3")], ids=["killed", "exited"]
)
def test_a_rank_that_dies_ends_all(how: int, said: str) -> None:
    began = time.monotonic()
    with pytest.raises(RankError, match=f"^tensor_parallel=2: rank 1 {said}$"):
        launch(2, leave, how)
    assert time.monotonic() - began < 60


def test_a_result_that_cannot_be_sent_says_so() -> None:
    with pytest.raises(RuntimeError, match="rank 0: its result"):
        launch(1, unsendable)


@pytest.mark.parametrize("ranks", [0, -2, True, 1.0])
def test_nonsense_is_refused(ranks: int) -> None:
    with pytest.raises(SettingError, match=r"tensor_parallel=.* must be a whole number"):
        launch(ranks, whoami, "hello")


def dkv_of(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dkv", "generate", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The process ids of both ranks, once they are under way."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for _ in range(600):
        pids = [int(pid) for pid in children.read_text().split()]
        if len(pids) == 2 and all("libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in pids):
            time.sleep(1)
            return pids
        time.sleep(0.05)
    raise AssertionError("the ranks did not start")


def gone(pids: list[int]) -> bool:
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.1)
    return False


LINUX = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")


@LINUX
@pytest.mark.parametrize(
    "how",
    ["interrupted", *(pytest.param(how, marks=pytest.mark.slow) for how in ("a rank killed", "terminated", "killed"))],
)
def test_however_a_command_ends_all_its_ranks_end(how: str, bare: Path) -> None:
    endless = ["--gen-length", "88", "--steps", str(16 * 88), "--block-length", "88", "--no-stop-at-eos"]
    process = dkv_of("1,2,3", "--ids", "--model", str(bare), "--tensor-parallel", "2", "--device", "cpu", *endless)
    pids = ranks_of(process)
    if how == "a rank killed":
        os.kill(pids[1], signal.SIGKILL)
    else:
        process.send_signal({"interrupted": signal.SIGINT, "terminated": signal.SIGTERM}.get(how, signal.SIGKILL))
    out, err = process.communicate(timeout=60)
    code = {"a rank killed": 2, "interrupted": 130, "terminated": 143, "killed": -signal.SIGKILL}[how]
    line = "error: tensor_parallel=2: rank 1 was ended by SIGKILL\n" if how == "a rank killed" else ""
    assert (process.returncode, out, err) == (code, "", line)
    assert gone(pids)


@pytest.mark.slow
def test_heads_that_cannot_be_shared_out_are_one_line(bare: Path) -> None:
    process = dkv_of("1,2,3", "--ids", "--model", str(bare), "--tensor-parallel", "3", "--device", "cpu")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == "error: tensor_parallel=3 must divide the model's kv_heads=4 (and heads=4); use one of 1, 2, 4\n"
