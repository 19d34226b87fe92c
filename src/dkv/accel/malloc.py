"""What of its memory this process keeps: what forwards free is kept while they follow one another, and given back once
the engine is idle; and of kernels that were built for a shape a server may keep fewer.

Every forward takes and frees the same large blocks. By default glibc gives such blocks back to the system, which hands
out empty pages again: for eight sequences of 768 tokens, 512 wide, that is up to 100,000 page faults and a fifth of a
forward (docs/speed.md).

In float32 oneDNN builds a kernel for every new number of rows, some 0.3 MB each. It keeps 1024 of them by default, and
the layer that torch calls it through another 1024: under a mixed load that is most of what a server grows by.
"""

from __future__ import annotations

import ctypes
import os

__all__ = ["bound_kernels", "give_back", "keep_freed"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's `mallopt`."""
_LARGE, _EVER = 1 << 30, (1 << 31) - 1
"""Bytes: blocks from which on each is a mapping of its own, as are large weights; how much may lie idle."""
_OWN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which a user has chosen for himself."""
_KERNELS, _MOST_KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"), "256"
"""How many kernels oneDNN keeps, and how many the layer above it."""


def keep_freed() -> bool:
    """Keep what is freed from now on, in the whole process and for good; whether that was possible. It is where memory
    comes from glibc, unless the environment says otherwise. Call it once the weights are loaded: those below 1 GiB
    would stay with the process too."""
    if any(name in os.environ for name in _OWN):
        return False
    try:
        tell = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    return bool(tell(_MMAP_THRESHOLD, _LARGE)) and bool(tell(_TRIM_THRESHOLD, _EVER))


def bound_kernels() -> None:
    """Have oneDNN, and the layer above it, keep fewer kernels, unless the environment says how many. They look once,
    when the process first needs one: call it before."""
    for name in _KERNELS:
        os.environ.setdefault(name, _MOST_KERNELS)


def give_back() -> bool:
    """Give what is free back to the system now, from all arenas; whether any was. Only glibc has a way to."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    return bool(trim(0))
