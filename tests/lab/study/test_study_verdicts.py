"""Each study's verdict and plot on hand-made records: held, refuted, too few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import pytest

from dkv.lab.bench.plots import png
from dkv.lab.study.accuracy import Policy
from dkv.lab.study.base import Effort, Record, Study
from dkv.lab.study.components import Components
from dkv.lab.study.delay import Delay
from dkv.lab.study.kp import PromptInterval
from dkv.lab.study.kr import ResponseInterval
from dkv.lab.study.order import Order
from dkv.lab.study.published_variants import Variants
from dkv.lab.study.refresh import Refresh
from dkv.lab.study.rho import Rho
from dkv.lab.study.similarity import Similarity
from dkv.lab.study.study_list import STUDIES, study_of
from dkv.lab.study.window import Window
from tests.support.study_samples import flags, record


class Swept(Study, Protocol):
    """A study of policies."""

    def policies(self, quick: bool) -> Sequence[Policy]: ...


Rate = Callable[[Policy], tuple[int, float]]
"""Right answers of 400, and the share of rows."""


def records_of(study: Swept, rate: Rate, count: int = 400, quick: bool = False) -> list[Record]:
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


HELD: list[tuple[Swept, Rate]] = [
    (Delay(), by(("delay=0", 200))),
    (Refresh(), by(("refresh=16", 200), ("refresh=32", 100))),
    (Window(), by(("window=0", 200))),
    (Order(), by(("random", 200))),
    (Rho(), by(("rho=0.25", 360), ("rho=0", 200))),
    (PromptInterval(), by()),
    (ResponseInterval(), by(("kr=20", 200))),
    (Similarity(), by(("l2", 200))),
    (Components(), components),
    (Variants(), variants),
]

REFUTED: list[tuple[Swept, Rate]] = [
    (Delay(), by()),
    (Refresh(), by(("refresh=8", 300))),
    (Window(), by()),
    (Order(), by(("dkv-greedy:refresh=2,window=4, random", 100), ("random", 200))),
    (Rho(), by(("rho=0.25", 300), ("rho=0", 200))),
    (PromptInterval(), by(("kp=50", 300))),
    (ResponseInterval(), by(("kr=7", 300))),
    (Similarity(), by(("l2", 390))),
    (Components(), lambda policy: (components(policy)[0], 0.4)),  # nothing saves rows
    (Variants(), lambda policy: (310 if "greedy" in policy.cache else 360, variants(policy)[1])),
]


def names(cases: Sequence[tuple[Swept, Rate]]) -> list[str]:
    return [type(study).__name__ for study, _ in cases]


@pytest.mark.parametrize(("study", "rate"), HELD, ids=names(HELD))
def test_held(study: Swept, rate: Rate) -> None:
    verdict = study.verdict(records_of(study, rate))
    assert verdict.held is True
    assert ", n=400, p=" in verdict.sentence


@pytest.mark.parametrize(("study", "rate"), REFUTED, ids=names(REFUTED))
def test_refuted(study: Swept, rate: Rate) -> None:
    assert study.verdict(records_of(study, rate)).held is False


@pytest.mark.parametrize(("study", "rate"), HELD, ids=names(HELD))
def test_too_few_to_tell(study: Swept, rate: Rate) -> None:
    verdict = study.verdict(records_of(study, rate, count=4, quick=True))
    assert verdict.held is None
    assert ", n=4, p=" in verdict.sentence


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(("study", "rate"), HELD, ids=names(HELD))
def test_figures_show_every_policy(study: Swept, rate: Rate, quick: bool) -> None:
    records = records_of(study, rate, quick=quick)
    figure = study.figure(records)
    series = [line.get_label() for line in figure.axes[0].containers]
    values = {round(float(y), 6) for line in figure.axes[0].containers for y in line[0].get_ydata()}
    assert values == {round(100 * sum(r.result["right"]) / 400, 6) for r in records}
    assert all("(" in axis.get_ylabel() for axis in figure.axes)
    assert [text.get_text() for legend in figure.legends for text in legend.get_texts()] == (
        series if len(series) > 1 else []
    )
    assert png(figure).startswith(b"\x89PNG")


def test_refresh_names_what_can_be_told() -> None:
    study = Refresh()
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
