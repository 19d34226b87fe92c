"""Published factors beside counted ones."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib")

from dkv.lab.common.plots import draw
from dkv.lab.study.base import Effort, Record
from dkv.lab.study.context import Kit
from dkv.lab.study.published_flops import Flops


def test_the_counted_factors_of_gsm8k() -> None:
    study = Flops()
    (cell, *_) = study.cells(Effort(quick=True))
    (record,) = study.measure(Kit(), [cell])
    assert record.result["vanilla"] / record.result["cache"] == pytest.approx(8.87, abs=0.01)
    assert record.result["none"] / record.result["cache"] == pytest.approx(8.35, abs=0.01)
    verdict = study.verdict([record])
    assert verdict.held
    assert "published 5.8x, here 8.87x (8.35x of our own no cache)" in verdict.sentence


@pytest.mark.parametrize(("cost", "held"), [(10, True), (12, False)])
def test_a_factor_that_is_missed_by_more_than_a_tenth(cost: int, held: bool) -> None:
    cell = {"task": "gsm8k", "prompt": 8, "gen_length": 4, "cache": "none", "published": 8.0}
    record = Record(cell, {"vanilla": 80, "none": 70, "cache": cost})
    assert Flops().verdict([record]).held is held
    assert len(draw(Flops().chart([record])).axes) == 1


def test_a_task_whose_lengths_are_ours_decides_nothing() -> None:
    cell = {"task": "gpqa", "prompt": 8, "gen_length": 4, "cache": "none", "published": 8.0}
    verdict = Flops().verdict([Record(cell, {"vanilla": 80, "none": 70, "cache": 40})])
    assert verdict.held is None
    assert "gpqa published 8.0x, here 2.00x" in verdict.sentence


def test_more_is_counted_in_full() -> None:
    assert len(Flops().cells(Effort())) > len(Flops().cells(Effort(quick=True))) == 2
