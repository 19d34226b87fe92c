"""Each study's verdict and plot on hand-made records: held, refuted, too few."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from dkv.lab.common.plots import draw, png
from dkv.lab.study.accuracy import Policy
from dkv.lab.study.base import Effort, Record
from dkv.lab.study.study_list import STUDIES, study_of
from dkv.lab.study.sweep import Sweep
from dkv.lab.study.sweep_table import SWEEPS
from tests.support.study_samples import flags, record

SWEEP = {sweep.name: sweep for sweep in SWEEPS}

Rate = Callable[[Policy], tuple[int, float]]
"""Right answers of 400, and the share of rows."""


def records_of(study: Sweep, rate: Rate, count: int = 400, quick: bool = False) -> list[Record]:
    """The first answers right; all pairs are then as alike as they can be."""
    found = []
    for policy in study.policies(quick):
        right, rows = rate(policy)
        share = right * count // 400
        found.append(record(policy, flags((share, True), (count - share, False)), rows))
    return found


def by(*parts: tuple[str, int], default: int = 360) -> Rate:
    """Right answers by what the spec holds."""
    return lambda policy: (next((n for part, n in parts if part in policy.label), default), 0.5)


def components(policy: Policy) -> tuple[int, float]:
    """The delay and the refresh gain, greedy keeps, and each step saves rows."""
    right = 300 if "delay=0" in policy.cache or "1024" in policy.cache else 360
    rows = {"none": 1.0, "dkv-decode": 0.4, "dkv-greedy": 0.2}[policy.cache.partition(":")[0]]
    return right, rows


def variants(policy: Policy) -> tuple[int, float]:
    """Nothing is lost, and rows are saved."""
    return 360, 1.0 if policy.cache == "none" else 0.5


HELD: list[tuple[Sweep, Rate]] = [
    (SWEEP["delay"], by(("delay=0", 200))),
    (SWEEP["refresh"], by(("refresh=16", 200), ("refresh=32", 100))),
    (SWEEP["window"], by(("window=0", 200))),
    (SWEEP["order"], by(("random", 200))),
    (SWEEP["rho"], by(("rho=0.25", 360), ("rho=0", 200))),
    (SWEEP["kp"], by()),
    (SWEEP["kr"], by(("kr=20", 200))),
    (SWEEP["similarity"], by(("l2", 200))),
    (SWEEP["components"], components),
    (SWEEP["variants"], variants),
]

REFUTED: list[tuple[Sweep, Rate]] = [
    (SWEEP["delay"], by()),
    (SWEEP["refresh"], by(("refresh=8", 300))),
    (SWEEP["window"], by()),
    (SWEEP["order"], by(("dkv-greedy:refresh=2,window=4, random", 100), ("random", 200))),
    (SWEEP["rho"], by(("rho=0.25", 300), ("rho=0", 200))),
    (SWEEP["kp"], by(("kp=50", 300))),
    (SWEEP["kr"], by(("kr=7", 300))),
    (SWEEP["similarity"], by(("l2", 390))),
    (SWEEP["components"], lambda policy: (components(policy)[0], 0.4)),  # nothing saves rows
    (SWEEP["variants"], lambda policy: (310 if "greedy" in policy.cache else 360, variants(policy)[1])),
]


def names(cases: Sequence[tuple[Sweep, Rate]]) -> list[str]:
    return [study.name for study, _ in cases]


@pytest.mark.parametrize(("study", "rate"), HELD, ids=names(HELD))
def test_held(study: Sweep, rate: Rate) -> None:
    verdict = study.verdict(records_of(study, rate))
    assert verdict.held is True
    assert ", n=400, p=" in verdict.sentence


@pytest.mark.parametrize(("study", "rate"), REFUTED, ids=names(REFUTED))
def test_refuted(study: Sweep, rate: Rate) -> None:
    assert study.verdict(records_of(study, rate)).held is False


@pytest.mark.parametrize(("study", "rate"), HELD, ids=names(HELD))
def test_too_few_to_tell(study: Sweep, rate: Rate) -> None:
    verdict = study.verdict(records_of(study, rate, count=4, quick=True))
    assert verdict.held is None
    assert ", n=4, p=" in verdict.sentence


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(("study", "rate"), HELD, ids=names(HELD))
def test_figures_show_every_policy(study: Sweep, rate: Rate, quick: bool) -> None:
    records = records_of(study, rate, quick=quick)
    chart = study.chart(records)
    figure = draw(chart)
    series = [line.get_label() for line in figure.axes[0].containers]
    values = {round(float(y), 6) for line in figure.axes[0].containers for y in line[0].get_ydata()}
    assert values == {round(100 * sum(r.result["right"]) / 400, 6) for r in records}
    assert all("(" in axis.get_ylabel() for axis in figure.axes)
    assert [text.get_text() for legend in figure.legends for text in legend.get_texts()] == (
        series if len(series) > 1 else []
    )
    assert png(chart).startswith(b"\x89PNG")


def test_refresh_names_what_can_be_told() -> None:
    study = SWEEP["refresh"]
    verdict = study.verdict(records_of(study, by(("refresh=16", 200), ("refresh=32", 100))))
    assert "can be told up to 8" in verdict.sentence
    verdict = study.verdict(records_of(study, by(("refresh", 200))))
    assert "can be told of none of those measured" in verdict.sentence


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_registered_under_its_name(name: str) -> None:
    study = study_of(name)
    assert study.name == name
    assert study.claim.endswith(".")
    quick, full = (study.cells(Effort(quick=quick, count=20)) for quick in (True, False))
    assert len(quick) <= len(full)
    assert len({str(cell) for cell in full}) == len(full)
