"""A program that ends as another one ends: see `warm.py`. Arguments: the server's socket, then those of `dkv`."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def main() -> None:
    """Ask for a process, pass signals on to it, and end by the same signal or exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.connect(sys.argv[1])
    asked = {
        "arguments": sys.argv[2:],
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "file_size": resource.getrlimit(resource.RLIMIT_FSIZE),
    }
    socket.send_fds(link, [json.dumps(asked).encode()], [0, 1, 2])
    pid = int(link.recv(100))
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(pid, number))
    for stream in (0, 1, 2):
        os.close(stream)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    code = int(link.recv(100))
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


main()
