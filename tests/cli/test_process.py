"""What only a process of its own shows: imports, pipes, terminals, and Ctrl-C."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli_fixtures import Shell
from tests.support.terminal import HIDE, SHOW, in_terminal


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["generate", "--help"], ["eval", "--help"], ["serve", "--help"], ["tune", "--help"], ["--version"]],
)
def test_help_imports_no_torch(arguments: list[str]) -> None:
    code = f"import sys, dkv.cli; sys.argv = {['dkv', *arguments]!r}; dkv.cli.main(); print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert ended.stdout.endswith(b"False\n")


def test_a_generation_imports_no_compiler(checkpoint: Path) -> None:
    """Half of a start was the import of torch's compiler, by a decorator."""
    arguments = ["dkv", "generate", "hi", "--model", str(checkpoint), "--gen-length", "4", "--json"]
    unused = ("torch._dynamo", "torch._inductor", "sympy", "transformers", "numpy.testing", "matplotlib", "fastapi")
    code = (
        f"import sys, dkv.cli; sys.argv = {arguments!r}; dkv.cli.main()\n"
        f"print([name for name in {unused!r} if name in sys.modules], 'torch' in sys.modules, file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60, text=True)
    assert ended.stderr == "[] True\n"


@pytest.mark.parametrize("command", ["generate hi --gen-length 4", "compare hi --gen-length 4"])
def test_a_person_is_told_that_a_model_is_loading(checkpoint: Path, command: str) -> None:
    arguments = [*command.split(), "--model", str(checkpoint)]
    assert in_terminal(arguments)[1].startswith(f"loading {checkpoint} ...\r\n".encode())
    assert b"loading" not in in_terminal([*arguments, "--json"])[1]


def test_a_pipe_is_not_told_that_a_model_is_loading(shell: Shell, checkpoint: Path) -> None:
    ended = shell("generate", "hi", "--gen-length", "4", "--model", str(checkpoint))
    assert ended.returncode == 0
    assert b"loading" not in ended.stdout + ended.stderr


def test_no_control_codes_in_a_pipe_whatever_the_environment_wants(checkpoint: Path) -> None:
    """Python itself looks at its environment as it starts."""
    command = [sys.executable, "-m", "dkv", "generate", "hi", "--model", str(checkpoint), "--gen-length", "8", "--live"]
    wants = {"FORCE_COLOR": "1", "GITHUB_ACTIONS": "1", "TTY_COMPATIBLE": "1", "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(command, capture_output=True, env={**os.environ, **wants}, timeout=60, check=False)
    assert ended.returncode == 0
    printed = (ended.stdout + ended.stderr).replace(b"\n", b"").replace(b"\t", b"")
    assert all(32 <= byte < 127 for byte in printed)


def test_a_reader_that_went_away_is_no_news() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, "-m", "dkv", "--help"], stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run([sys.executable, "-m", "dkv", "--help"], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr == b"error: input or output: No space left on device\n"


@pytest.mark.parametrize("command", ["generate --live", "generate", "compare --cache none"])
def test_ctrl_c_leaves_a_clean_terminal(checkpoint: Path, command: str) -> None:
    long = ["--model", str(checkpoint), "--gen-length", "1984", "--no-stop-at-eos"]
    code, written = in_terminal([*command.split(), "hi", *long], HIDE)
    assert code == 130
    assert b"Traceback" not in written
    assert written.rfind(SHOW) > written.rfind(HIDE) >= 0


def test_live_on_a_terminal_draws_and_vanishes(checkpoint: Path) -> None:
    common = ["generate", "hi", "--model", str(checkpoint), "--gen-length", "16", "--seed", "1", "--live"]
    code, written = in_terminal(common)
    assert code == 0
    assert "■ committed, recomputed".encode() in written.replace(b"\x1b[1;32m", b"").replace(b"\x1b[0m", b"")
    drawing, _, after = written.rpartition(SHOW)
    assert b"positions" in drawing
    assert b"positions" not in after
    assert b"tokens/s" in after


def test_no_color_is_respected(checkpoint: Path) -> None:
    common = ["generate", "hi", "--model", str(checkpoint), "--gen-length", "16", "--live"]
    colour = re.compile(rb"\x1b\[(\d+;)*3\d[;m]")
    coloured, plain = in_terminal(common), in_terminal(common, NO_COLOR="1")
    assert coloured[0] == plain[0] == 0
    assert colour.search(coloured[1])
    assert not colour.search(plain[1])
