"""The processor that tests run on, and what its kernels are limited to."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch

__all__ = ["LIMITS", "header", "processor"]

LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
"""Variables by which torch's own kernels, oneDNN's and MKL's are limited."""
_FLAGS = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve", "bf16")


def processor() -> str:
    """Its name, as Linux tells it or else Python."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def header() -> list[str]:
    """Lines for the head of a test run."""
    has = torch.cpu.get_capabilities()
    flags = " ".join(name for name in _FLAGS if has.get(name))
    limits = " ".join(f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ)
    kernels = torch.backends.cpu.get_cpu_capability()
    return [
        f"processor: {processor()} ({flags or platform.machine()})",
        f"kernels: torch {torch.__version__} {kernels}, limits: {limits or 'none'}",
    ]
