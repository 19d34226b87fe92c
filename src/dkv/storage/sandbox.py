"""Runs a model's program against tests in a subprocess with limits on time, memory and files, and no environment.

It keeps honest mistakes (endless loops, huge allocations, endless output) from hurting; it is no jail for hostile code,
which can still read what the user can read. Where the system allows (Linux with user namespaces) the program is also
cut off from every network, the machine's own included.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile

__all__ = ["can_cut_network", "passes"]

SECONDS = 5.0
MEGABYTES = 512

# The child limits itself before the program starts; hard limits cannot be raised again. The token is printed only
# when the tests ran to their end, so that a program that exits early does not pass.
_CHILD = """
import os, sys
program, told = sys.stdin.read(), sys.stdout
if {cut}:
    import ctypes
    unshare = getattr(ctypes.CDLL(None), 'unshare', None) if os.name == 'posix' else None
    failed = unshare is None or unshare(0x10000000 | 0x40000000)  # CLONE_NEWUSER, CLONE_NEWNET
    if failed and {required}:
        print({refused!r})
        sys.exit(1)
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, ({cpu}, {cpu}))
    resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
except ImportError:
    pass
sys.stdout = open(os.devnull, 'w')
exec(compile(program, 'answer', 'exec'), {{'__name__': 'answer'}})
print({token!r}, file=told)
"""


def passes(
    program: str, tests: str, seconds: float = SECONDS, megabytes: int = MEGABYTES, network: bool | None = None
) -> bool:
    """Whether `program` followed by `tests` runs to its end within the limits.

    network: True = as everyone; None = cut off where the system can; False = cut off, or an OSError where that cannot
    be had, and then the program has not run.
    """
    token, refused = secrets.token_hex(8), secrets.token_hex(8)
    child = _CHILD.format(
        cpu=max(1, int(seconds)),
        memory=megabytes << 20,
        cut=not network,
        required=network is False,
        token=token,
        refused=refused,
    )
    code, told = _run(child, f"{program}\n{tests}\n", seconds)
    if told == refused:
        raise OSError("this system does not let a program be cut off from the network")
    return code == 0 and told == token


def can_cut_network() -> bool:
    """Whether this system lets a program be run without a network."""
    try:
        return passes("", "", network=False)
    except OSError:
        return False


def _run(child: str, given: str, seconds: float) -> tuple[int, str]:
    """Exit code and output of a child; what is left of it, and of what it started, is killed."""
    kept = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}  # Windows needs it to start
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(  # noqa: S603 - running the answer is the point; the child limits itself
            [sys.executable, "-I", "-S", "-X", "utf8", "-c", child], cwd=folder, env=kept, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8",
            errors="replace",
        )  # fmt: skip
        try:
            told, _ = process.communicate(given, timeout=seconds)
        except subprocess.TimeoutExpired:
            return 1, ""
        finally:
            _kill(process)
    return process.returncode, told.strip()


def _kill(process: subprocess.Popen[str]) -> None:
    """End the child and its whole group, and wait for it."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):  # gone; macOS says so in its own way
        pass
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
