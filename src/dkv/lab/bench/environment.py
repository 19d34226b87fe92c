"""What a row was measured with: versions and machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from dkv.version import VERSION

__all__ = ["environment_of", "versions"]

_CPUINFO = Path("/proc/cpuinfo")


def versions() -> dict[str, str]:
    """Of dkv, torch and Python."""
    return {"dkv": VERSION, "torch": torch.__version__, "python": platform.python_version()}


def environment_of(device: torch.device) -> dict[str, Any]:
    """Versions, and the machine by what its users call it."""
    machine: dict[str, Any] = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cuda":
        machine["accelerator"] = torch.cuda.get_device_name(device)
    return {"versions": versions(), "machine": machine}


def _processor() -> str:
    """The name that Linux gives; elsewhere what Python knows."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
