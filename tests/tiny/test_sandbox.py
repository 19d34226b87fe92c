"""The limits under which answers are run."""

from __future__ import annotations

import sys
import time

import pytest

from dkv.tiny.tasks.sandbox import passes

GOOD = "def double(x):\n    return x * 2\n"


def test_right_and_wrong() -> None:
    assert passes(GOOD, "assert double(4) == 8")
    assert not passes(GOOD, "assert double(4) == 9")
    assert not passes("def double(x:", "assert True")


def test_endless_loop_is_stopped() -> None:
    began = time.monotonic()
    assert not passes("while True: pass", "", seconds=1.0)
    assert time.monotonic() - began < 5


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits there")
def test_memory_hog_is_stopped() -> None:
    assert not passes("x = bytearray(2 << 30)", "", seconds=5.0)
    assert not passes("x = [0]\nwhile True: x = x + x", "", seconds=5.0)


@pytest.mark.parametrize("leave", ["raise SystemExit(0)", "import os; os._exit(0)", "import sys; sys.exit()"])
def test_leaving_early_does_not_pass(leave: str) -> None:
    assert not passes(leave, "assert False")


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits there")
def test_files_cannot_be_filled() -> None:
    assert not passes("with open('big', 'w') as f:\n    f.write('x' * 100000)", "")
