"""The study `length-params` on hand-made records, and one cell of each part for real."""

from __future__ import annotations

from typing import Any

import pytest

from dkv.lab.common.plots import draw
from dkv.lab.study.base import Effort, Record
from dkv.lab.study.context import Kit
from dkv.lab.study.length_params import LengthParams, Params, found_in
from tests.support.study_samples import SMALL

PUBLISHED, OFTEN, EAGER = Params(50, 7, 0.25), Params(10, 7, 0.25), Params(50, 7, 0.0)


def cost(positions: int, rho: float, seconds: dict[tuple[int, int], float]) -> Record:
    cell = {"part": "cost", "shape": SMALL, "gen": 256, "positions": positions, "rho": rho, "kp": [], "kr": []}
    return Record(cell, {"seconds": [[kp, kr, s] for (kp, kr), s in seconds.items()], "none_seconds": 100.0})


def fidelity(params: Params, same: int, count: int) -> Record:
    cell = {"part": "fidelity", "kp": params.kp, "kr": params.kr, "rho": params.rho}
    flags = [number < same for number in range(count)]
    result: dict[str, Any] = {"same": flags, "right": flags, "none_right": [True] * count}
    return Record(cell, {**result, "agreement": [1.0] * count, "differ": 1, "compared": 100})


def records(published: float, eager_same: int, count: int = 40) -> list[Record]:
    """rho 0 takes 5 seconds of the 100 of no cache, kp 10 takes 20."""
    return [
        cost(1024, 0.25, {(50, 7): published, (10, 7): 20.0}),
        cost(1024, 0.0, {(50, 7): 5.0}),
        fidelity(PUBLISHED, count, count),
        fidelity(OFTEN, count, count),
        fidelity(EAGER, eager_same, count),
    ]


def test_a_fast_setting_that_loses_is_left_out() -> None:
    found = found_in(records(10.0, 20))
    assert found.faithful == [PUBLISHED, OFTEN]
    assert found.good(1024) == [PUBLISHED]
    assert found.speedup(1024, PUBLISHED) == 10
    verdict = LengthParams().verdict(records(10.0, 20))
    assert verdict.held is True
    assert "at 1,024 positions kp 50, kr 7, rho 0.25 (10.0x)" in verdict.sentence
    assert "40/40 = 100.0%" in verdict.sentence


def test_the_advice_falls_where_rho_0_loses_nothing() -> None:
    verdict = LengthParams().verdict(records(10.0, 40))
    assert verdict.held is False
    assert "at 1,024 positions kp 50, kr 7, rho 0 (20.0x)" in verdict.sentence


def test_both_are_good_within_a_tenth() -> None:
    assert found_in(records(5.4, 40)).good(1024) == [PUBLISHED, EAGER]
    assert LengthParams().verdict(records(5.4, 40)).held is True


def test_few_prompts_or_none_tell_nothing() -> None:
    assert LengthParams().verdict(records(10.0, 4, 4)).held is None
    assert LengthParams().verdict([r for r in records(10.0, 4) if r.cell["part"] == "cost"]).held is None
    assert LengthParams().verdict([r for r in records(10.0, 4) if r.cell["part"] == "fidelity"]).held is None


@pytest.mark.parametrize("quick", [True, False])
def test_every_setting_of_the_fidelity_has_a_cost(quick: bool) -> None:
    cells = LengthParams().cells(Effort(quick=quick))
    costs = [cell for cell in cells if cell["part"] == "cost"]
    known = {Params(kp, kr, cell["rho"]) for cell in costs for kp in cell["kp"] for kr in cell["kr"]}
    tried = [Params(c["kp"], c["kr"], c["rho"]) for c in cells if c["part"] == "fidelity"]
    assert PUBLISHED in tried
    assert len(set(tried)) == len(tried)
    assert set(tried) <= known


def test_a_conversation_is_asked_whole() -> None:
    cell = {"part": "fidelity", "task": "dialogue", "least": 1, "count": 1, "kp": 1, "kr": 1, "rho": 0.25}
    (made,) = LengthParams().measure(Kit(device="cpu", dtype="float32"), [cell])
    # The order of the shortest conversation, most of which stands in its first turn.
    assert made.result["right"] == made.result["none_right"] == [True]


@pytest.mark.slow
def test_both_parts_for_real() -> None:
    pytest.importorskip("matplotlib")
    lookup = {"part": "fidelity", "task": "lookup", "least": 1, "count": 1}
    cells = [
        {"part": "cost", "shape": SMALL, "gen": 16, "kp": [1, 4], "kr": [1, 3], "positions": 64, "rho": 0.25},
        {**lookup, "kp": 1, "kr": 1, "rho": 0.25},
        {**lookup, "kp": 50, "kr": 50, "rho": 0.0},
    ]
    kit = Kit(device="cpu", dtype="float32")
    made = list(LengthParams().measure(kit, cells))
    assert [r.cell for r in made] == cells
    times, exact, rough = (r.result for r in made)
    assert [(kp, kr) for kp, kr, _ in times["seconds"]] == [(1, 1), (1, 3), (4, 1), (4, 3)]
    assert times["seconds"][0][2] > 0
    # kp = kr = 1 is no cache, on its own canvas and on any other.
    assert exact["same"] == [True]
    assert exact["agreement"] == [1.0]
    assert (exact["differ"], exact["compared"]) == (0, 64 * 65 // 2)
    assert rough["differ"] > 0
    figure = draw(LengthParams().chart(made))
    assert len(figure.axes) == 3
