"""Joules from counters as Linux shows them, and the high-water mark of some work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from dkv.lab.bench.instruments import find_meter, peak_bytes
from tests.support.powercap import zone


def test_packages_count_and_their_parts_and_the_platform_do_not(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 100)
    zone(tmp_path, "intel-rapl:0:0", "core", 50)
    zone(tmp_path, "intel-rapl:1", "package-1", 200)
    zone(tmp_path, "intel-rapl:2", "psys", 900)
    meter = find_meter(tmp_path)
    assert meter is not None
    assert meter.read() == (100, 200)


def test_a_counter_that_wrapped_counts_on(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0, most=999)
    meter = find_meter(tmp_path)
    assert meter is not None
    assert meter.joules((990,), (10,)) == 20 / 1e6
    assert meter.joules((10,), (990,)) == 980 / 1e6


def test_none_where_there_is_none_or_it_cannot_be_read(tmp_path: Path) -> None:
    assert find_meter(tmp_path / "missing") is None
    assert find_meter(tmp_path) is None
    zone(tmp_path, "intel-rapl:0", "package-0", None)
    assert find_meter(tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_what_was_held_for_a_moment_counts() -> None:
    cpu = torch.device("cpu")
    assert (peak_bytes(lambda: torch.ones(10_000_000).sum(), cpu) or 0) > 39_000_000
    # Earlier work does not.
    assert (peak_bytes(lambda: torch.ones(10).sum(), cpu) or 0) < 20_000_000


def test_unknown_where_the_kernel_does_not_say(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    ran: list[int] = []
    monkeypatch.setattr("dkv.lab.bench.instruments._STATUS", tmp_path)
    assert peak_bytes(lambda: ran.append(1), torch.device("cpu")) is None
    assert ran == [1]
