"""The limits under which answers are run."""

from __future__ import annotations

import sys
import time

import pytest

from dkv.storage.sandbox import can_cut_network, passes

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


CALL = """
import socket
server = socket.socket()
server.bind(("127.0.0.1", 0))
server.listen(1)
socket.create_connection(server.getsockname(), timeout=1)
"""


@pytest.mark.skipif(not can_cut_network(), reason="this system cannot")
def test_without_a_network_not_even_the_own_machine_answers() -> None:
    assert passes(CALL, "", network=True)
    assert not passes(CALL, "")
    assert not passes(CALL, "", network=False)
    assert passes(GOOD, "assert double(4) == 8", network=False)
    assert not passes(GOOD, "assert double(4) == 9", network=False)


@pytest.mark.skipif(not can_cut_network(), reason="this system cannot")
def test_limits_hold_without_a_network_too() -> None:
    assert not passes("x = bytearray(2 << 30)", "", network=False)
    assert not passes("while True: pass", "", seconds=1.0, network=False)


def test_the_environment_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    assert passes("import os", "assert 'SECRET_TOKEN' not in os.environ")


def test_endless_output_is_no_burden() -> None:
    assert passes("print('x' * (1 << 24))", "")
    assert not passes("while True: print('x' * 1000)", "", seconds=1.0)


def test_any_character_may_be_printed_and_compared() -> None:
    assert passes("s = 'ä☃'\nprint(s)", "assert len(s) == 2 and ord(s[1]) == 0x2603")


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups there")
def test_what_a_program_starts_ends_with_it() -> None:
    """A child that keeps the output open would otherwise be waited for."""
    program = "import os, time\nif os.fork() == 0:\n    time.sleep(30)\n    os._exit(0)"
    began = time.monotonic()
    passes(program, "", seconds=1.0)
    assert time.monotonic() - began < 5
