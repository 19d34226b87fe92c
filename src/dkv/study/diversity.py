"""Does a cache narrow what a model says when it samples?"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from dkv.errors import PromptError
from dkv.eval.measured import Outcome
from dkv.eval.statistics import Difference, Share
from dkv.eval.suite import Suite, embedded
from dkv.study.accuracy import gathered, result_of
from dkv.study.base import Cell, Effort, Record, Verdict
from dkv.study.judging import Mean, all_of, kept
from dkv.study.kit import Kit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dkv.tokens import Tokenizer

__all__ = ["Diversity", "by_prompt", "distinct", "sampled"]

DRAWS, TEMPERATURE = 8, 0.7
_CACHES = ("none", "dkv-decode:refresh=4", "dkv-decode:refresh=8", "dllm-cache")
_NARROWER = 0.02
"""By how much distinct-2 may fall."""


def distinct(answers: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams over all n-grams of some answers together (Li et al., arXiv 1510.03055); 0 without any."""
    grams = [tuple(answer[i : i + n]) for answer in answers for i in range(len(answer) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def by_prompt(tokenizer: Tokenizer, outcomes: Sequence[Outcome]) -> dict[str, Any]:
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


def sampled(suite: Suite) -> Suite:
    """Each problem as often as it is drawn, one after another."""
    return replace(
        suite,
        problems=tuple(
            replace(problem, question=replace(problem.question, temperature=TEMPERATURE, draw=draw))
            for problem in suite.problems
            for draw in range(DRAWS)
        ),
    )


class Diversity:
    """Eight samples of each prompt at temperature 0.7, with the same noise under every cache. By prompt: distinct-1 and
    distinct-2 over the tokens of its samples, the share of different texts, right ones, and pass@8 (at least one).

    Rule, on pairs of prompts: dkv-decode at refresh 4 against no cache. Held if pass@8 loses at most 2 points and
    distinct-2 at most 0.02 (lower bounds); not if an upper bound says that more was lost.
    """

    name: ClassVar[str] = "diversity"
    claim: ClassVar[str] = (
        "A nearly lossless cache leaves the variety of samples as it is. No paper on these caches reports it: their "
        "tables are at temperature 0 (LLaDA) or one sample each (Dream, temperature 0.2)."
    )

    def cells(self, effort: Effort) -> Sequence[Cell]:
        """Four caches, on a quarter of the examples; quick: at most five, and three caches."""
        count = min(5, effort.count) if effort.quick else max(1, effort.count // 4)
        caches = [cache for cache in _CACHES if not (effort.quick and cache.endswith("refresh=8"))]
        shared: Cell = {"task": "words", "count": count, "draws": DRAWS, "temperature": TEMPERATURE, "decoder": None}
        return [{**shared, "cache": cache} for cache in caches]

    def measure(self, kit: Kit, cells: Sequence[Cell]) -> Iterator[Record]:
        """Draw what the answers' file lacks."""
        if cells:
            tokenizer = kit.lm().tokenizer
            if tokenizer is None:
                raise PromptError("prompt: this checkpoint has no tokenizer, and the tasks are texts")
            suite = sampled(embedded(cells[0]["task"], cells[0]["count"]))
            yield from gathered(kit, suite, cells, partial(by_prompt, tokenizer))

    def figure(self, records: Sequence[Record]) -> Figure:
        """Four panels over the caches."""
        from dkv.study.drawing import Panel, Point, draw, percent

        def means(name: str) -> dict[str, list[Point | None]]:
            return {"": [Point(statistics.fmean(record.result[name])) for record in records]}

        panels = [
            Panel("distinct-1 (mean of prompts)", means("distinct_1")),
            Panel("distinct-2 (mean of prompts)", means("distinct_2")),
            Panel("different texts (share of 8)", means("different")),
            Panel(
                f"prompts (n={len(records[0].result['passed'])}), samples (%)",
                {
                    "pass@8": [percent(Share(sum(r.result["passed"]), len(r.result["passed"]))) for r in records],
                    "right samples": [Point(100 * statistics.fmean(r.result["right"])) for r in records],
                },
            ),
        ]
        names = [record.cell["cache"].replace(":refresh=", " ") for record in records]
        return draw("Eight samples at temperature 0.7", "cache", names, panels, joined=False)

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        found = {record.cell["cache"]: record.result for record in records}
        none, cache = found[_CACHES[0]], found[_CACHES[1]]
        passed = Difference.of(cache["passed"], none["passed"])
        spread = Mean.of([a - b for a, b in zip(cache["distinct_2"], none["distinct_2"], strict=True)])
        sentence = f"dkv-decode at refresh 4 against no cache: pass@8 {passed}; distinct-2 {spread}."
        return Verdict(all_of((kept(passed), kept(spread, _NARROWER))), sentence)
