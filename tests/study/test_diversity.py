"""Distinct n-grams by hand, samples that differ, and the rule."""

from __future__ import annotations

from pathlib import Path

import pytest

import dkv
from dkv.eval.measured import Outcome
from dkv.eval.suite import embedded
from dkv.study.base import Effort, Record
from dkv.study.diversity import DRAWS, Diversity, by_prompt, distinct, sampled
from dkv.study.kit import Kit
from tests.study.samples import flags, llada


def test_distinct_by_hand() -> None:
    answers = [[1, 2, 1], [1, 2], [3]]
    assert distinct(answers, 1) == 3 / 6
    assert distinct(answers, 2) == 2 / 3  # 12, 21 and 12
    assert distinct([[1], []], 2) == 0.0


def test_by_prompt(lm: dkv.DiffusionLM) -> None:
    assert lm.tokenizer is not None
    same, spread = ([Outcome(1.0, "ab")] * DRAWS, [Outcome(0.0, str(n)) for n in range(DRAWS)])
    found = by_prompt(lm.tokenizer, [*same, *spread])
    assert found["distinct_1"] == [2 / 16, 1.0]
    assert found["distinct_2"] == [1 / 8, 0.0]
    assert found["different"] == [1 / 8, 1.0]
    assert found["passed"] == [True, False]
    assert found["right"] == [True] * 8 + [False] * 8


def test_every_sample_is_a_question_of_its_own() -> None:
    suite = sampled(embedded("words", 2))
    assert [q.draw for q in suite.questions] == [*range(8), *range(8)]
    assert len(set(suite.questions)) == 16
    assert {q.temperature for q in suite.questions} == {0.7}


def test_a_run(tmp_path: Path) -> None:
    study, model = Diversity(), llada(tmp_path / "model")
    cells = study.cells(Effort(quick=True, count=1))
    records = list(study.measure(Kit(model, "cpu", "float32"), cells))
    assert [record.cell["cache"] for record in records] == ["none", "dkv-decode:refresh=4", "dllm-cache"]
    assert len(records[0].result["right"]) == 8
    assert records[0].result["different"][0] > 0.5
    assert study.verdict(records).held is None
    figure = study.figure(records)
    assert figure.axes[0].get_ylabel() == "distinct-1 (mean of prompts)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["pass@8", "right samples"]


def made(passed: int, spread: float, count: int = 200) -> list[Record]:
    results = {"none": (180, 0.5), "dkv-decode:refresh=4": (passed, spread)}
    return [
        Record(
            {"cache": cache},
            {"passed": flags((n * count // 200, True), (count - n * count // 200, False)), "distinct_2": [d] * count},
        )
        for cache, (n, d) in results.items()
    ]


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
