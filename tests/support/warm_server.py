"""Forks processes of `dkv` that need not import torch any more: see `warm.py`. Argument: the path of its socket.

Ends when its standard input does. Each request gets two processes: one that becomes `python -m dkv`, and one that waits
for it, tells its end and kills it where the client was killed.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
from typing import Any

IMPORTED = ("torch", "safetensors.torch", "tokenizers", "typer", "typer.main", "rich.console", "jinja2.sandbox")
"""Packages of others that do not look at the environment as they are imported, or are told the same in all tests."""


def serve(path: str) -> dict[str, Any]:
    """Wait for requests. Returns in a fork alone: what it is asked to run, with its descriptors in place."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(path)
    listening.listen(16)
    for name in IMPORTED:
        __import__(name)
    gc.freeze()  # else collections in each fork would copy the pages of all that is imported
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    print("ready", flush=True)
    while True:
        if sys.stdin in select.select([sys.stdin, listening], [], [])[0]:
            sys.exit()
        link = listening.accept()[0]
        if os.fork() == 0:
            return keep(link)
        link.close()


def keep(link: socket.socket) -> dict[str, Any]:
    """Fork what was asked for, and wait for it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, descriptors, *_ = socket.recv_fds(link, 1 << 20, 3)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(3, 256)
        return dict(json.loads(message))
    for descriptor in (0, 1, 2, *descriptors):
        os.close(descriptor)
    link.send(str(pid).encode())
    ended = os.pidfd_open(pid)
    if ended not in select.select([ended, link.fileno()], [], [])[0]:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        link.send(str(code).encode())
    finally:
        os._exit(0)


def stream(number: int, errors: str = "strict") -> Any:
    """A standard stream for writing, as Python opens it."""
    lines = number == 2 or os.isatty(number)
    return open(number, "w", encoding="utf-8", errors=errors, buffering=1 if lines else -1, closefd=False)


def become(asked: dict[str, Any]) -> None:
    """Have what a new process has."""
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["directory"])
    resource.setrlimit(resource.RLIMIT_FSIZE, tuple(asked["file_size"]))
    sys.argv = ["dkv", *asked["arguments"]]
    sys.path.insert(0, asked["directory"])
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = stream(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = stream(2, "backslashreplace")  # type: ignore[misc]


if __name__ == "__main__":
    sys.path.pop(0)  # the directory of this file, whose names are no modules
    become(serve(sys.argv[1]))
    runpy.run_module("dkv", run_name="__main__", alter_sys=True)
