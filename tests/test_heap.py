"""What a process frees it finds again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from dkv.heap import keep_freed
kept = sys.argv[1] == "kept" and keep_freed()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        blocks = [torch.ones(10 << 20) for _ in range(3)]  # beyond what glibc keeps by itself
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""


def told(how: str, **more: str) -> tuple[bool, int]:
    """Whether what is freed was kept, and the page faults of taking 600 MB in blocks of 40 once more."""
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name} | more
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True, env=environment
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_what_is_freed_is_found_again() -> None:
    assert told("as ever")[1] > 10_000
    kept, faults = told("kept")
    assert kept
    assert faults < 1_000


def test_a_user_who_has_chosen_is_not_overruled() -> None:
    assert not told("kept", MALLOC_TRIM_THRESHOLD_="131072")[0]


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import dkv.heap

    for name in dkv.heap._OWN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not dkv.heap.keep_freed()
