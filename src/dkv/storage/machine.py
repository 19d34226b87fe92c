"""How much memory this machine, or the container that the process is in, has."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["machine_memory"]

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> int | None:
    """Bytes of memory that a process may have here; None where the system does not say."""
    limits = [limit for limit in (_physical(), *map(_limit, _LIMITS)) if limit is not None]
    return min(limits, default=None)


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _limit(place: str) -> int | None:
    try:
        text = Path(place).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isdigit() else None
