"""V-verify's study: its verdict on records made by hand, a tiny run, and correlations worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dkv.lab.common.plots import png
from dkv.lab.study.base import Effort, Record
from dkv.lab.study.context import Kit
from dkv.lab.study.layer_probes import Snapshot
from dkv.lab.study.vverify import VVerify, correlations, overlap, pearson, ranks, spearman
from dkv.tiny import TASKS

STUDY = VVerify()


def record(task: str, *correlations: float, attn: float | None = None) -> Record:
    """A prompt for each correlation, the same in both layers above the first, where it is not defined."""

    def prompt(value: float) -> dict[str, Any]:
        lines: dict[str, list[float | None]] = {
            "mlp": [None, value, value],
            "attn": [None, *[value if attn is None else attn] * 2],
        }
        return {"steps": 3, "spearman": lines, "pearson": lines, "overlap": {x: [0.3, 0.5, 0.7] for x in lines}}

    return Record({"task": task, "first": 0, "count": 4, "rho": 0.25}, {"prompts": [prompt(v) for v in correlations]})


@pytest.mark.parametrize(
    ("records", "held"),
    [
        ([record("code", 0.8, 0.9), record("words", 0.75, 0.8)], True),
        ([record("code", 0.8, 0.9), record("words", 0.5, 0.6)], False),
        ([record("code", 0.8, 0.9, attn=0.4)], False),
        ([record("code", 0.5, 0.9)], None),
        ([record("code", 0.9)], None),
        ([record("code", 0.8), record("code", 0.9)], True),
    ],
    ids=["held", "one domain below", "one feature below", "straddles", "one prompt", "two cells of a domain"],
)
def test_the_verdict_follows_its_rule(records: list[Record], held: bool | None) -> None:
    assert STUDY.verdict(records).held is held


def test_the_sentence_carries_figures_and_counts() -> None:
    sentence = STUDY.verdict([record("code", 0.8, 0.8), record("words", 0.6, 0.6, 0.6)]).sentence
    assert "code (n=2 prompts) attention output 0.80 [0.80, 0.80]" in sentence
    assert "arithmetic (n=3 prompts)" in sentence
    assert "V finds 60%" in sentence  # of layers above the first
    assert "By chance it would find 25%" in sentence


def test_only_tasks_that_are_there_are_asked() -> None:
    cells = STUDY.cells(Effort(quick=True))
    assert {cell["task"] for cell in cells} <= set(TASKS)
    assert {"code", "words"} <= {cell["task"] for cell in cells}
    assert all(cell["count"] == 4 and cell["rho"] == 0.25 for cell in cells)
    assert sum(cell["count"] for cell in STUDY.cells(Effort()) if cell["task"] == "code") == 24
    assert [cell["count"] for cell in STUDY.cells(Effort(count=6)) if cell["task"] == "code"] == [4, 2]


def snapshot(clock: int, v: list[float], mlp: list[float], attn: list[float]) -> Snapshot:
    """One layer, one sequence of a prompt token and a response; each number is the angle of a vector."""

    def turned(angles: list[float]) -> torch.Tensor:
        a = torch.tensor(angles, dtype=torch.float64)
        return torch.stack((a.cos(), a.sin()), -1)[None, None]

    x = turned(v)
    return Snapshot(clock, [True], [1], [len(v)], torch.zeros(1, len(v)), x, x, turned(attn), turned(mlp))


def test_the_response_alone_is_compared_within_a_step() -> None:
    still = [0.0] * 5
    before = snapshot(0, still, still, still)
    # response rows drift by 1, 2, 3, 4 in V; the FFN in the same order, attention in the opposite; the prompt wildly
    now = snapshot(1, [3.0, 0.1, 0.2, 0.3, 0.4], [0.0, 0.2, 0.4, 0.6, 0.8], [1.0, 0.4, 0.3, 0.2, 0.1])
    (found,) = correlations(iter((before, now)), 0.5)
    assert found["steps"] == 1
    assert found["spearman"] == {"mlp": [1.0], "attn": [-1.0]}
    assert found["overlap"] == {"mlp": [1.0], "attn": [0.0]}


@pytest.mark.slow
def test_a_tiny_run_and_its_plot() -> None:
    cells = [{"task": task, "first": 0, "count": 2, "rho": 0.25} for task in ("code", "words")]
    kit = Kit()
    records = list(STUDY.measure(kit, cells))
    assert [r.cell for r in records] == cells
    for r in records:
        assert len(r.result["prompts"]) == 2
        for prompt in r.result["prompts"]:
            assert len(prompt["spearman"]["mlp"]) == kit.lm().model.config.layers
            assert prompt["overlap"]["mlp"][-1] > 0.25  # more than by chance
    assert png(STUDY.chart(records)).startswith(b"\x89PNG")
    assert "arithmetic (n=2 prompts)" in STUDY.verdict(records).sentence


def test_ranks_put_ties_at_their_mean() -> None:
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]


def test_spearman_sees_order_and_pearson_size() -> None:
    x, y = torch.tensor([0.0, 1.0, 2.0, 100.0]), torch.tensor([2.0, 1.0, 0.0, 100.0])
    # ranks 0 1 2 3 against 2 1 0 3: 1 - 6 * (4 + 0 + 4 + 0) / (4 * 15)
    assert float(spearman(x, y)) == pytest.approx(0.2)
    assert float(pearson(x, y)) > 0.99


def test_each_line_is_treated_on_its_own() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    y = torch.tensor([[1.0, 4.0, 9.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    found = spearman(x, y).tolist()
    assert found[:2] == pytest.approx([1.0, -1.0])
    assert math.isnan(found[2])


def test_overlap_counts_the_highest_of_both() -> None:
    x, y = torch.tensor([9.0, 8.0, 1.0, 0.0]), torch.tensor([9.0, 0.0, 8.0, 1.0])
    assert float(overlap(x, y, 2)) == 0.5
    assert float(overlap(x, x, 2)) == 1.0
    # all tie: the lowest positions are picked
    assert float(overlap(torch.zeros(4), torch.tensor([0.0, 0.0, 5.0, 6.0]), 2)) == 0.0


@given(st.lists(st.integers(-1000, 1000), min_size=3, max_size=20, unique=True))
def test_a_monotone_change_leaves_spearman_at_one(values: list[int]) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    assert float(spearman(x, x * 3 + 1)) == pytest.approx(1.0)
    assert float(spearman(x, -x)) == pytest.approx(-1.0)
