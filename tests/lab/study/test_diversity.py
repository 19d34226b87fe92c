"""Distinct n-grams by hand, samples that differ, and the rule."""

from __future__ import annotations

from pathlib import Path

import pytest

import dkv
from dkv.lab.common.plots import draw
from dkv.lab.eval.eval_table import ExampleOutcome
from dkv.lab.eval.suites import embedded
from dkv.lab.study.base import Effort, Record
from dkv.lab.study.context import Kit
from dkv.lab.study.diversity import DRAWS, Diversity, by_prompt, distinct, sampled
from tests.support.study_samples import flags, llada


def test_distinct_by_hand() -> None:
    answers = [[1, 2, 1], [1, 2], [3]]
    assert distinct(answers, 1) == 3 / 6
    assert distinct(answers, 2) == 2 / 3  # 12, 21 and 12
    assert distinct([[1], []], 2) == 0.0


def test_by_prompt(lm: dkv.DiffusionLM) -> None:
    assert lm.tokenizer is not None
    same, spread = ([ExampleOutcome(1.0, "ab")] * DRAWS, [ExampleOutcome(0.0, str(n)) for n in range(DRAWS)])
    found = by_prompt(lm.tokenizer, [*same, *spread])
    assert found["distinct_1"] == [2 / 16, 1.0]
    assert found["distinct_2"] == [1 / 8, 0.0]
    assert found["different"] == [1 / 8, 1.0]
    assert found["passed"] == [True, False]
    assert found["right"] == [True] * 8 + [False] * 8


def test_every_sample_is_a_question_of_its_own() -> None:
    suite = sampled(embedded("words", 2), 0.7)
    assert [q.draw for q in suite.questions] == [*range(8), *range(8)]
    assert len(set(suite.questions)) == 16
    assert {q.temperature for q in suite.questions} == {0.7}


@pytest.mark.slow
def test_a_run(tmp_path: Path) -> None:
    study, model = Diversity(), llada(tmp_path / "model")
    cells = study.cells(Effort(quick=True, count=1))
    records = list(study.measure(Kit(model, "cpu", "float32"), cells))
    assert [record.cell for record in records] == cells
    assert [cell["cache"] for cell in cells[:3]] == ["none", "dkv-decode:refresh=4", "dllm-cache"]
    assert [cell["temperature"] for cell in cells[::3]] == [0.7, 3.0]
    assert len(records[0].result["right"]) == 8
    assert records[0].result["different"][0] > 0.5
    assert study.verdict(records).held is None
    figure = draw(study.chart(records))
    assert [axis.get_ylabel() for axis in figure.axes][3] == "pass@8 (%), n=1, 95% interval"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["temperature 0.7", "temperature 3.0"]


def made(passed: int, spread: float, count: int = 200, cold: float = 0.125) -> list[Record]:
    """cold: the share of different texts at the lower temperature, where the cache is as good as none."""
    results = {
        (0.7, "none"): (180, 0.5, cold),
        (0.7, "dkv-decode:refresh=4"): (180, 0.5, cold),
        (3.0, "none"): (180, 0.5, 0.9),
        (3.0, "dkv-decode:refresh=4"): (passed, spread, 0.9),
    }
    return [
        Record(
            {"temperature": temperature, "cache": cache},
            {
                "passed": flags((n * count // 200, True), (count - n * count // 200, False)),
                "distinct_2": [d] * count,
                "different": [share] * count,
            },
        )
        for (temperature, cache), (n, d, share) in results.items()
    ]


def test_variety_is_judged_where_there_is_some() -> None:
    cold, hot = made(120, 0.5, 400, cold=0.5), made(120, 0.5, 400)
    assert Diversity().verdict(cold).sentence.startswith("At temperature 0.7, ")
    assert Diversity().verdict(cold).held is True
    assert Diversity().verdict(hot).sentence.startswith("At temperature 3.0, ")
    same = [Record(r.cell, {**r.result, "different": [1 / 8] * 400}) for r in hot]
    assert Diversity().verdict(same).held is None


@pytest.mark.parametrize(
    ("passed", "spread", "count", "held"),
    [
        (180, 0.5, 400, True), (180, 0.45, 400, False), (120, 0.5, 400, False), (180, 0.5, 10, None),
        (180, 0.485, 400, True),
    ],
)  # fmt: skip
def test_the_rule(passed: int, spread: float, count: int, held: bool | None) -> None:
    verdict = Diversity().verdict(made(passed, spread, count))
    assert verdict.held is held
    assert f"n={count}" in verdict.sentence
