"""How tests start `dkv` in a process of its own: as `python -m dkv`, but forked from one that has imported torch.

The import takes most of the time of a short command. What is started is `warm_client.py`, which hands its descriptors,
its environment and its directory to the fork, passes signals on and ends as the fork ends. What matters before torch is
imported (`--help`, warnings, encodings) is tested by processes that are started as users start them.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

__all__ = ["program"]

HERE = Path(__file__).parent


@cache
def program() -> tuple[str, ...]:
    """The words before the arguments of `dkv` in a command."""
    if sys.platform != "linux":
        return sys.executable, "-m", "dkv"
    directory = tempfile.TemporaryDirectory(prefix="dkv-warm-")
    path = os.path.join(directory.name, "socket")
    server = subprocess.Popen(
        [sys.executable, str(HERE / "warm_server.py"), path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"

    def end() -> None:
        server.communicate()
        directory.cleanup()

    atexit.register(end)
    return sys.executable, "-I", "-S", str(HERE / "warm_client.py"), path
