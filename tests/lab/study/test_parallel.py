"""A cache with a parallel decoder on hand-made records: fast and as good, slow, worse, too few."""

from __future__ import annotations

import pytest

from dkv.lab.common.plots import draw, png
from dkv.lab.study.accuracy import Policy
from dkv.lab.study.base import Effort, Record
from dkv.lab.study.parallel import Parallel
from tests.support.study_samples import flags, record


def time_of(policy: Policy, both: float) -> float:
    """Of no cache and one token a step it is 1; a cache halves it, a decoder makes it a quarter."""
    if policy.cache != "none" and policy.decoder is not None:
        return both
    return (1.0 if policy.cache == "none" else 0.5) * (1.0 if policy.decoder is None else 0.25)


def records_of(right: int, both: float, quick: bool = False, count: int = 400) -> list[Record]:
    found = []
    for policy in Parallel().policies(quick):
        share = (360 if policy == Policy("none") else right) * count // 400
        found.append(record(policy, flags((share, True), (count - share, False)), time_of(policy, both)))
    return found


@pytest.mark.parametrize(
    ("right", "both", "held"), [(360, 0.1, True), (380, 0.19, True), (360, 0.25, False), (300, 0.1, False)]
)
@pytest.mark.parametrize("quick", [True, False])
def test_verdict(right: int, both: float, held: bool, quick: bool) -> None:
    assert Parallel().verdict(records_of(right, both, quick)).held is held


def test_too_few_to_tell() -> None:
    assert Parallel().verdict(records_of(360, 0.1, quick=True, count=4)).held is None


def test_each_part_s_share_is_told() -> None:
    sentence = Parallel().verdict(records_of(360, 0.1)).sentence
    assert "10.0x the tokens a second (the cache alone 2.0x, the decoder alone 4.0x), +0.0 [" in sentence


@pytest.mark.parametrize("quick", [True, False])
def test_the_figure_shows_accuracy_and_speed(quick: bool) -> None:
    chart = Parallel().chart(records_of(360, 0.1, quick))
    figure = draw(chart)
    speeds = {round(float(y), 3) for line in figure.axes[1].containers for y in line[0].get_ydata()}
    assert speeds == {1.0, 2.0, 4.0, 10.0}
    assert png(chart).startswith(b"\x89PNG")


def test_cells_cover_every_task_but_in_quick_ones() -> None:
    assert len({cell["task"] for cell in Parallel().cells(Effort(count=3))}) == 7
    assert {cell["task"] for cell in Parallel().cells(Effort(quick=True, count=3))} == {"words"}
