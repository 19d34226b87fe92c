"""Does a cache narrow what a model says when it samples?"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from dkv.lab.common.charts import Chart, Panel
from dkv.lab.common.grouping import grouped
from dkv.lab.eval.eval_table import ExampleOutcome
from dkv.lab.eval.statistics import Difference, Share
from dkv.lab.eval.suites import Suite, embedded
from dkv.lab.study.accuracy import gathered, result_of, share_series, value_panel
from dkv.lab.study.base import Cell, Effort, Record, Verdict
from dkv.lab.study.context import Kit
from dkv.lab.study.runs import tokenizer_of
from dkv.lab.study.verdicts import Mean, all_of, kept
from dkv.tokenizer import Tokenizer

__all__ = ["Diversity", "by_prompt", "distinct", "sampled"]

DRAWS = 8
_TEMPERATURES = (0.7, 3.0)
"""The usual one, and one at which the embedded model, which is sure of itself, varies."""

_CACHES = ("none", "dkv-decode:refresh=4", "dkv-decode:refresh=8", "dllm-cache")
_NARROWER = 0.02
"""By how much distinct-2 may fall."""

_VARIED = 0.25
"""Share of different texts from which on there is a variety to lose: two of eight."""


def distinct(answers: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams over all n-grams of some answers together (Li et al., arXiv 1510.03055); 0 without any."""
    grams = [tuple(answer[i : i + n]) for answer in answers for i in range(len(answer) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def by_prompt(tokenizer: Tokenizer, outcomes: Sequence[ExampleOutcome]) -> dict[str, Any]:
    """What is kept of a cell, whose outcomes go prompt by prompt."""
    groups = [outcomes[first : first + DRAWS] for first in range(0, len(outcomes), DRAWS)]
    tokens = [[tokenizer.encode(outcome.output) for outcome in group] for group in groups]
    return {
        **result_of(outcomes),
        "distinct_1": [distinct(group, 1) for group in tokens],
        "distinct_2": [distinct(group, 2) for group in tokens],
        "different": [len({outcome.output for outcome in group}) / len(group) for group in groups],
        "passed": [any(outcome.value == 1 for outcome in group) for group in groups],
    }


def sampled(suite: Suite, temperature: float) -> Suite:
    """Each problem as often as it is drawn, one after another."""
    return replace(
        suite,
        problems=tuple(
            replace(problem, question=replace(problem.question, temperature=temperature, draw=draw))
            for problem in suite.problems
            for draw in range(DRAWS)
        ),
    )


class Diversity:
    """Eight samples of each prompt, at temperature 0.7 and 3, with the same noise under every cache. By prompt:
    distinct-1 and distinct-2 over the tokens of its samples, the share of different texts, and pass@8 (one is right).

    Rule, on pairs of prompts: dkv-decode at refresh 4 against no cache, at the lower temperature at which a quarter of
    the texts without a cache differ (with none, there is nothing to tell). Held if pass@8 loses at most 2 points and
    distinct-2 at most 0.02 (lower bounds); not if an upper bound says that more was lost.
    """

    name: ClassVar[str] = "diversity"
    claim: ClassVar[str] = (
        "A nearly lossless cache leaves the variety of samples as it is. No paper on these caches reports it: their "
        "tables are at temperature 0 (LLaDA) or one sample each (Dream, temperature 0.2)."
    )

    def cells(self, effort: Effort) -> Sequence[Cell]:
        """Four caches, on a quarter of the examples; quick: at most two, and three caches."""
        count = min(2, effort.count) if effort.quick else max(1, effort.count // 4)
        caches = [cache for cache in _CACHES if not (effort.quick and cache.endswith("refresh=8"))]
        shared: Cell = {"task": "words", "count": count, "draws": DRAWS, "decoder": None}
        return [{**shared, "temperature": t, "cache": cache} for t in _TEMPERATURES for cache in caches]

    def measure(self, kit: Kit, cells: Sequence[Cell]) -> Iterator[Record]:
        """Draw what the answers' file lacks."""
        for temperature, mine in grouped(cells, lambda cell: cell["temperature"]).items():
            suite = sampled(embedded(mine[0]["task"], mine[0]["count"]), temperature)
            yield from gathered(kit, suite, mine, partial(by_prompt, tokenizer_of(kit.lm())))

    def chart(self, records: Sequence[Record]) -> Chart:
        """Four panels over the caches, a series for each temperature."""
        groups = {f"temperature {t}": [r.result for r in records if r.cell["temperature"] == t] for t in _TEMPERATURES}
        names = list(dict.fromkeys(record.cell["cache"].replace(":refresh=", " ") for record in records))

        def means(label: str, key: str, times: int = 100) -> Panel:
            values = {t: [times * statistics.fmean(r[key]) for r in group] for t, group in groups.items()}
            return value_panel("cache", label, names, values, "", 1.05 * times)

        passed = {t: [Share(sum(r["passed"]), len(r["passed"])) for r in group] for t, group in groups.items()}
        label = f"pass@8 (%), n={len(records[0].result['passed'])}, 95% interval"
        last = [share_series(t, shares, "") for t, shares in passed.items()]
        panels = [
            means("distinct-2 (share, mean of prompts)", "distinct_2", 1),
            means("different texts (% of 8, mean)", "different"),
            means("right samples (%)", "right"),
            Panel("cache", label, series=last, categories=names, low=0, high=105),
        ]
        return Chart("Eight samples of a prompt", panels, 2)

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        results = {(r.cell["temperature"], r.cell["cache"]): r.result for r in records}
        varied = [t for t in _TEMPERATURES if statistics.fmean(results[t, "none"]["different"]) >= _VARIED]
        if not varied:
            return Verdict(None, "Samples without a cache hardly differ, so there is no variety to lose.")
        none, cache = (results[varied[0], name] for name in _CACHES[:2])
        passed = Difference.of(cache["passed"], none["passed"])
        spread = Mean.of([a - b for a, b in zip(cache["distinct_2"], none["distinct_2"], strict=True)])
        where = f"At temperature {varied[0]}, dkv-decode at refresh 4 against no cache"
        return Verdict(
            all_of((kept(passed), kept(spread, _NARROWER))), f"{where}: pass@8 {passed}; distinct-2 {spread}."
        )
