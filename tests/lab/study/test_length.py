"""The study `length` on hand-made records, and one cell for real."""

from __future__ import annotations

from typing import Any

import pytest

from dkv.lab.common.plots import draw
from dkv.lab.study.base import Effort, Record
from dkv.lab.study.context import Kit
from dkv.lab.study.length import POLICIES, LengthStudy, lines_of
from tests.support.study_samples import SMALL


def record(cache: str, positions: int, gen: int, seconds: float, none: float) -> Record:
    cell = {"shape": SMALL, "positions": positions, "gen": gen, "block": gen, "cache": cache}
    result: dict[str, Any] = {
        "seconds": seconds,
        "none_seconds": none,
        "llada_saved": none / seconds,
        "cache_bytes": 1000 * positions,
        "peak_bytes": 3 * positions,
        "none_peak_bytes": 2 * positions,
    }
    return Record(cell, result)


def grown(dkv: float, fast: float) -> list[Record]:
    """No cache costs positions squared; both caches save four times at 1,024 and so many at 2,048, the prompt grown."""
    return [
        record("none", 1024, 256, 16.0, 16.0),
        record("none", 2048, 256, 64.0, 64.0),
        record("dkv-pd", 1024, 256, 4.0, 16.0),
        record("dkv-pd", 2048, 256, 64.0 / dkv, 64.0),
        record("fast-dual", 1024, 256, 4.0, 16.0),
        record("fast-dual", 2048, 256, 64.0 / fast, 64.0),
    ]


def test_it_holds_where_every_family_grows() -> None:
    verdict = LengthStudy().verdict(grown(8.0, 4.5))
    assert verdict.held is True
    assert "dKV-Cache grows: dkv-pd 4.0x to 8.0x (4.0 to 8.0)" in verdict.sentence
    assert "Fast-dLLM grows: fast-dual 4.0x to 4.5x" in verdict.sentence
    assert "dkv-pd 2.05 MB, peak 1.50 times" in verdict.sentence


def test_it_does_not_where_one_stays_within_a_tenth() -> None:
    verdict = LengthStudy().verdict(grown(8.0, 4.3))
    assert verdict.held is False
    assert "Fast-dLLM does not grow: fast-dual 4.0x to 4.3x" in verdict.sentence


def test_one_length_tells_nothing() -> None:
    assert LengthStudy().verdict(grown(8.0, 4.5)[::2]).held is None
    assert LengthStudy().verdict([]).held is None


def test_exponents_are_of_the_seconds() -> None:
    lines = {line.policy: line for line in lines_of(grown(8.0, 4.0)) if line.growing == "prompt"}
    found = {policy: line.exponent for policy, line in lines.items()}
    assert {policy: round(e.value, 6) for policy, e in found.items() if e} == {
        "none": 2.0,
        "dkv-pd": 1.0,
        "fast-dual": 2.0,
    }


def test_the_two_ways_of_growing_share_their_first_length() -> None:
    lines = lines_of(
        [record("dkv-pd", 1024, 256, 1, 1), record("dkv-pd", 4096, 1024, 1, 1), record("dkv-pd", 4096, 256, 1, 1)]
    )
    assert [(line.growing, line.positions) for line in lines] == [("prompt", [1024, 4096]), ("both", [1024, 4096])]


@pytest.mark.parametrize("quick", [True, False])
def test_cells_are_different_and_have_blocks_where_caches_need_them(quick: bool) -> None:
    cells = LengthStudy().cells(Effort(quick=quick))
    assert len({str(cell) for cell in cells}) == len(cells)
    assert {cell["cache"] for cell in cells} == set(POLICIES)
    assert max(cell["positions"] for cell in cells) == (4096 if quick else 16384)
    assert all((cell["block"] == 32) == cell["cache"].startswith("fast-") for cell in cells)
    assert all(cell["gen"] % cell["block"] == 0 for cell in cells)


def test_a_cell_for_real_and_its_plot() -> None:
    pytest.importorskip("matplotlib")
    cells = [
        {"shape": SMALL, "positions": 64, "gen": 16, "block": 16, "cache": cache} for cache in ("none", "dkv-decode")
    ]
    records = list(LengthStudy().measure(Kit(device="cpu"), cells))
    assert [r.cell for r in records] == cells
    none, decode = (r.result for r in records)
    assert none["seconds"] == none["none_seconds"] > 0
    assert none["saved"] == 1
    assert decode["saved"] > 1
    assert decode["cache_bytes"] == 2 * 2 * 65 * 64 * 4  # keys and values, layers, slots and scratch, width, bytes
    assert decode["rows"] < none["rows"] == 64 * 16
    assert len(draw(LengthStudy().chart(records)).axes) == 4
