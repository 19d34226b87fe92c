"""Processes that another one has started, found in /proc."""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["descendants", "gone"]


def descendants(root: int, named: str = "") -> list[int]:
    """The processes that `root` has started, and theirs, whose command line has `named` in it."""
    parents, names = dict[int, int](), dict[int, str]()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            status = (directory / "stat").read_text(encoding="utf-8", errors="replace")
            names[int(directory.name)] = (directory / "cmdline").read_bytes().decode("utf-8", "replace")
        except OSError:  # it ended meanwhile
            continue
        parents[int(directory.name)] = int(status.rpartition(")")[2].split()[1])

    def belongs(process: int) -> bool:
        while process in parents and process != root:
            process = parents[process]
        return process == root

    return [process for process in parents if process != root and belongs(process) and named in names.get(process, "")]


def gone(processes: list[int], seconds: float = 30.0) -> bool:
    """Whether all of them end in time."""
    end = time.monotonic() + seconds
    while any(Path(f"/proc/{process}").exists() for process in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
