"""The command line on a terminal of its own."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import termios

from tests.support.warm import program

HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"


def in_terminal(arguments: list[str], interrupt_at: bytes | None = None, **environment: str) -> tuple[int, bytes]:
    """Exit code of `dkv` on a terminal and all that it wrote there; interrupted once `interrupt_at` has appeared."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 100))
    process = subprocess.Popen(
        [*program(), *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "NO_COLOR": "", "COLUMNS": "100", "LINES": "40", **environment},
        start_new_session=True,
    )
    os.close(theirs)
    written = b""
    while chunk := _read(ours, process):
        written += chunk
        if interrupt_at is not None and interrupt_at in written:
            process.send_signal(signal.SIGINT)
            interrupt_at = None
    os.close(ours)
    return process.wait(), written


def _read(terminal: int, process: subprocess.Popen[bytes]) -> bytes:
    """What comes next; nothing once the other side has closed. A process that stays silent too long is killed."""
    if not select.select([terminal], [], [], 60)[0]:
        process.kill()
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # how Linux says closed
        return b""
