"""The study of dynamics: token states, drifts by state and age, and its verdict on records made by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dkv.core.canvas import GIVEN, NEVER
from dkv.lab.common.plots import png
from dkv.lab.study.base import Effort, Record
from dkv.lab.study.context import Kit
from dkv.lab.study.dynamics import AGES, STATES, Dynamics, drifts, states_of
from dkv.lab.study.layer_probes import Snapshot

STUDY = Dynamics()


def test_states_are_told_by_when_a_token_was_decoded() -> None:
    committed_at = torch.tensor([GIVEN, NEVER, 11, 10, 9, 8, 7, 6, 3, 2, 0])
    names = [STATES[i] for i in states_of(committed_at, clock=10).tolist()]
    assert names == ["prompt", "masked", "masked", "just decoded", "1 step ago", "2", "3", "4-7", "4-7", "8+", "8+"]


def record(task: str, *prompts: dict[str, float]) -> Record:
    """Drifts by state, the same of keys and values and in both layers; what is not given is 0.001."""

    def prompt(drift: dict[str, float]) -> dict[str, Any]:
        state = [[drift.get(name, 0.001)] * 2 for name in STATES]
        age = [[0.001 * n] * 2 for n in range(2 * len(AGES))]
        counts = {"states": [5] * len(STATES), "ages": [5] * 2 * len(AGES)}
        return {"state": {"k": state, "v": state}, "age": {"k": age, "v": age}, **counts}

    return Record({"task": task, "first": 0, "count": 4}, {"prompts": [prompt(p) for p in prompts]})


GOOD = {"just decoded": 0.3, "masked": 0.01}


@pytest.mark.parametrize(
    ("records", "held"),
    [
        ([record("code", GOOD, GOOD), record("words", GOOD, GOOD)], True),
        ([record("code", GOOD, GOOD), record("words", *[GOOD | {"1 step ago": 0.2}] * 2)], False),
        ([record("code", *[GOOD | {"prompt": 0.5}] * 2)], False),
        ([record("code", *[GOOD | {"masked": 0.0001}] * 2)], False),
        ([record("code", GOOD, GOOD | {"1 step ago": 0.2})], None),
        ([record("code", GOOD)], None),
    ],
    ids=["held", "not settled", "another state moves more", "masked ones stand still", "straddles", "one prompt"],
)
def test_the_verdict_follows_its_rule(records: list[Record], held: bool | None) -> None:
    assert STUDY.verdict(records).held is held


def test_the_sentence_carries_figures_and_counts() -> None:
    sentence = STUDY.verdict([record("code", GOOD, GOOD), record("words", GOOD)]).sentence
    assert "code (n=2 prompts): a step after its decoding a token drifts 0.0033 [0.0033, 0.0033] (K)" in sentence
    assert "masked tokens drift 10 [10, 10] (K)" in sentence
    assert "arithmetic (n=1 prompts)" in sentence


def snapshot(clock: int, angles: list[float], committed_at: list[int]) -> Snapshot:
    """One layer, one sequence; keys and values are unit vectors at these angles."""
    a = torch.tensor(angles, dtype=torch.float64)
    x = torch.stack((a.cos(), a.sin()), -1)[None, None]
    return Snapshot(clock, [True], [1], [len(angles)], torch.tensor([committed_at]), x, x, x, x)


def test_drifts_are_those_of_the_state_and_the_age() -> None:
    third, right = torch.pi / 3, torch.pi / 2  # 1 - cosine: 0.5 and 1
    steps = [
        snapshot(0, [0.0, 0.0, 0.0], [GIVEN, 0, NEVER]),
        snapshot(1, [0.0, right, third], [GIVEN, 0, 1]),
        snapshot(2, [third, right + third, third], [GIVEN, 0, 1]),
    ]
    (found,) = drifts(iter(steps))
    by_state = dict(zip(STATES, found["state"]["k"], strict=True))
    # from step 0: one just decoded (1), one masked (0.5), the prompt (0); from 1: 1 step ago (0.5), just decoded (0)
    assert by_state["just decoded"] == pytest.approx([0.5])
    assert by_state["masked"] == pytest.approx([0.5])
    assert by_state["1 step ago"] == pytest.approx([0.5])
    assert by_state["prompt"] == pytest.approx([0.25])
    assert by_state["8+"] == [None]
    assert found["states"] == [1, 2, 1, 0, 0, 0, 0, 2]
    ages = found["age"]["v"]
    # decoded tokens count only where they were themselves at both times: age 1 from step 1, no age 2
    assert ages[0] == pytest.approx([0.5])
    assert ages[1] == [None]
    prompt = ages[len(AGES) :]
    assert prompt[0] == pytest.approx([0.25])
    assert prompt[1] == pytest.approx([0.5])
    assert found["ages"] == [1, 0, 0, 0, 0, 2, 1, 0, 0, 0]


@pytest.mark.slow
def test_a_tiny_run_and_its_plot() -> None:
    cells = [{**STUDY.cells(Effort(quick=True))[0], "count": 2}]
    records = list(STUDY.measure(Kit(), cells))
    (first, _) = records[0].result["prompts"]
    moved = dict(zip(STATES, first["state"]["k"], strict=True))
    # a token's first-layer keys depend on the token alone: they move when it is decoded, and never else
    assert moved["just decoded"][0] > 0.1
    assert moved["masked"][0] == moved["1 step ago"][0] == moved["prompt"][0] == 0
    assert png(STUDY.chart(records)).startswith(b"\x89PNG")
    assert "code (n=2 prompts)" in STUDY.verdict(records).sentence
