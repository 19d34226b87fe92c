"""dkv-fill beside its rivals on hand-made records: higher agreement, equal in less time, lower, too few."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dkv.lab.common.plots import draw, png
from dkv.lab.study.base import Effort, Record
from dkv.lab.study.fill_rows import FillRows
from tests.support.study_samples import flags, record

Rates = Mapping[str, tuple[int, float]]
"""By cache: answers of 400 that are no cache's, and its share of time."""

BETTER: Rates = {"dkv-fill": (390, 0.2), "dkv-decode": (360, 0.5), "dllm-cache": (350, 0.4), "none": (400, 1.0)}
EQUAL: Rates = {**BETTER, "dkv-fill": (360, 0.2), "dllm-cache": (360, 0.4)}
WORSE: Rates = {**BETTER, "dkv-fill": (330, 0.2)}
SLOWER: Rates = {**BETTER, "dkv-fill": (390, 0.8)}


def records_of(rates: Rates, quick: bool = False, count: int = 400) -> list[Record]:
    found = []
    for policy in FillRows().policies(quick):
        same, time = rates.get(policy.cache.partition(":")[0], (360, 0.6))
        share = same * count // 400
        found.append(record(policy, flags((share, True), (count - share, False)), time))
    return found


@pytest.mark.parametrize(("rates", "held"), [(BETTER, True), (EQUAL, True), (WORSE, False), (SLOWER, None)])
@pytest.mark.parametrize("quick", [True, False])
def test_verdict(rates: Rates, held: bool | None, quick: bool) -> None:
    assert FillRows().verdict(records_of(rates, quick)).held is held


def test_it_names_time_and_agreement_beside_each_rival() -> None:
    sentence = FillRows().verdict(records_of(BETTER)).sentence
    assert "beside dkv-decode:refresh=2, in 40% of its time: +7.5 [" in sentence
    assert "beside dllm-cache:kp=50,kr=2,rho=0.25, in 50% of its time: +10.0 [" in sentence


def test_too_few_to_tell() -> None:
    assert FillRows().verdict(records_of(BETTER, quick=True, count=4)).held is None


@pytest.mark.parametrize("quick", [True, False])
def test_the_figure_has_a_line_for_each_family(quick: bool) -> None:
    chart = FillRows().chart(records_of(BETTER, quick))
    figure = draw(chart)
    first, second = figure.axes
    lines = [line.get_label() for line in first.containers]
    assert lines[:2] == ["dkv-decode", "dllm-cache"]
    assert "dkv-fill, change" in lines
    points = {(round(float(x)), round(float(y), 1)) for x, y in zip(*first.containers[0][0].get_data(), strict=True)}
    assert points == {(50, 90.0)}
    assert all("%" in axis.get_ylabel() for axis in (first, second))
    assert png(chart).startswith(b"\x89PNG")


def test_cells_cover_every_task_but_in_quick_ones() -> None:
    assert {cell["task"] for cell in FillRows().cells(Effort(count=3))} >= {
        "words",
        "lists",
        "code",
        "lookup",
        "dialogue",
    }
    assert {cell["task"] for cell in FillRows().cells(Effort(quick=True, count=3))} == {"words"}
