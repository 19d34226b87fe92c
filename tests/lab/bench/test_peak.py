"""The high-water mark of some work."""

from __future__ import annotations

import sys

import pytest
import torch

from dkv.lab.bench.peak import peak_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_what_was_held_for_a_moment_counts() -> None:
    cpu = torch.device("cpu")
    assert (peak_bytes(lambda: torch.ones(10_000_000).sum(), cpu) or 0) > 39_000_000
    # Earlier work does not.
    assert (peak_bytes(lambda: torch.ones(10).sum(), cpu) or 0) < 20_000_000


def test_unknown_where_the_kernel_does_not_say(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    ran: list[int] = []
    monkeypatch.setattr("dkv.lab.bench.peak._STATUS", tmp_path)
    assert peak_bytes(lambda: ran.append(1), torch.device("cpu")) is None
    assert ran == [1]
