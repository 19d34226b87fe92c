"""What is read from the machine: its name and versions, joules, and the most memory that some work held at once."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dkv.loading import release_memory
from dkv.version import VERSION

__all__ = ["Meter", "environment_of", "find_meter", "peak_bytes"]

_CPUINFO = Path("/proc/cpuinfo")
_POWERCAP = Path("/sys/class/powercap")
_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def environment_of(device: torch.device) -> dict[str, Any]:
    """Versions of dkv, torch and Python, and the machine by what its users call it."""
    versions = {"dkv": VERSION, "torch": torch.__version__, "python": platform.python_version()}
    machine: dict[str, Any] = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cuda":
        machine["accelerator"] = torch.cuda.get_device_name(device)
    return {"versions": versions, "machine": machine}


def _processor() -> str:
    """The name that Linux gives; elsewhere what Python knows."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


@dataclass(frozen=True)
class Meter:
    """The processor packages' counters that Linux shows under powercap: microjoules that wrap around after `ranges`.
    They count all that the packages do, not this process alone."""

    counters: tuple[Path, ...]
    ranges: tuple[int, ...]

    def read(self) -> tuple[int, ...]:
        """What each counter shows, in microjoules."""
        return tuple(int(path.read_text(encoding="ascii")) for path in self.counters)

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Spent between two readings less than a wrap apart (minutes)."""
        spent = ((b - a) % most for a, b, most in zip(before, after, self.ranges, strict=True))
        return sum(spent) / 1e6


def find_meter(root: Path = _POWERCAP) -> Meter | None:
    """The meter over all packages; None where there is none, or only the administrator may read it."""
    counters, ranges = [], []
    for zone in sorted(root.glob("*")):
        try:
            # The zones within a package, and the platform's, count the same energy again.
            if not (zone / "name").read_text(encoding="ascii").startswith("package"):
                continue
            ranges.append(int((zone / "max_energy_range_uj").read_text(encoding="ascii")) + 1)
            int((zone / "energy_uj").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        counters.append(zone / "energy_uj")
    return Meter(tuple(counters), tuple(ranges)) if counters else None


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
