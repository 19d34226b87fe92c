"""The most memory that some work held at once, beyond what was held before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from dkv.loading import release_memory

__all__ = ["peak_bytes"]

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def peak_bytes(work: Callable[[], object], device: torch.device) -> int | None:
    """Run `work`; the bytes that it held at its highest. Of a GPU, what its allocator gave out; of a CPU, resident
    pages; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return int(torch.cuda.max_memory_allocated(device)) - before
    release_memory()  # what the C library keeps from earlier work would hide what this one needs
    started = _reset()
    work()
    return None if started is None else max(_resident("VmHWM") - started, 0)


def _reset() -> int | None:
    """Start the kernel's high-water mark anew: the bytes resident now. None where it cannot be."""
    try:
        _RESET.write_text("5", encoding="ascii")
        return _resident("VmRSS")
    except (OSError, StopIteration):
        return None


def _resident(name: str) -> int:
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
