"""Do the caches keep what stands in a long prompt?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

from dkv.lab.common.charts import Chart
from dkv.lab.common.grouping import grouped
from dkv.lab.eval.statistics import Difference
from dkv.lab.eval.suites import EMBEDDED, Problem, Suite, embedded
from dkv.lab.study.accuracy import NONE, Policy, accuracy_chart, gathered, pool, pools_of
from dkv.lab.study.base import Cell, Effort, Record, Verdict
from dkv.lab.study.context import Kit
from dkv.lab.study.runs import tokenizer_of
from dkv.lab.study.verdicts import all_of, kept

__all__ = ["LongPrompts", "between"]

TASK = "lookup"
_BINS = ((0, 200), (200, 500), (500, 2048))
"""Tokens of a prompt: from, and below."""

_PREFILL, _ADAPTIVE = Policy("dkv-prefill"), Policy("dllm-cache")
_POLICIES = (NONE, _PREFILL, Policy("dkv-decode:refresh=4"), Policy("dkv-pd"), _ADAPTIVE)
_LOSS = 0.05


def between(kit: Kit, suite: Suite, low: int, high: int, count: int) -> Suite:
    """The first `count` problems whose prompts have at least `low` tokens and fewer than `high`, all messages together,
    without a chat template. Raises PromptError where there is no tokenizer."""
    tokenizer = tokenizer_of(kit.lm())
    found: list[Problem] = []
    for problem in suite.problems:
        prompt = problem.question.prompt
        texts = [prompt] if isinstance(prompt, str) else [text for _, text in prompt]
        if low <= sum(len(tokenizer.encode(text)) for text in texts) < high and len(found) < count:
            found.append(problem)
    return replace(suite, problems=tuple(found))


class LongPrompts:
    """task: an embedded one, by default `lookup`: facts in shuffled order, two look-ups, prompts of up to about 1,500
    tokens. A cell is a policy on the prompts of some lengths, at most half as many as the effort counts.

    Rule, on pairs, all prompts of 200 tokens and more together: held if dkv-prefill and dllm-cache lose at most 5
    points to no cache (lower bounds); not if an upper bound says that one loses more.
    """

    name: ClassVar[str] = "long-prompts"
    claim: ClassVar[str] = (
        "The prompt can be kept while the response is made, however long it is (arXiv 2505.15781, table 2, "
        "Dream-Base-7B on GSM8K with 8 examples: 76.88 to 75.66 with Prefill, 3.55 times faster; dLLM-Cache, arXiv "
        "2506.06295: HotpotQA F1 34.56 to 36.10)."
    )

    def __init__(self, task: str = TASK) -> None:
        self._task = task

    def cells(self, effort: Effort) -> Sequence[Cell]:
        """Five policies on three ranges of lengths; quick: three policies, and at most four prompts of each range. None
        where the package lacks the task."""
        if self._task not in EMBEDDED:
            return []
        policies = (NONE, _PREFILL, _ADAPTIVE) if effort.quick else _POLICIES
        count = min(4, effort.count) if effort.quick else max(1, effort.count // 2)
        return [{"task": self._task, "tokens": list(b), "count": count, **p.fields} for b in _BINS for p in policies]

    def measure(self, kit: Kit, cells: Sequence[Cell]) -> Iterator[Record]:
        """Range by range; of a range without prompts the lists are empty."""
        for (low, high), mine in grouped(cells, lambda cell: tuple(cell["tokens"])).items():
            suite = between(kit, embedded(self._task), low, high, mine[0]["count"])
            yield from gathered(kit, suite, mine)

    def chart(self, records: Sequence[Record]) -> Chart:
        """A series for each policy over the ranges."""
        ranges = grouped(records, lambda record: tuple(record.cell["tokens"]))
        counts = {ends: max(len(record.result["right"]) for record in some) for ends, some in ranges.items()}
        known = {ends: pools_of(some) if counts[ends] else {} for ends, some in ranges.items()}
        series = {p.label: [known[ends].get(p) for ends in ranges] for p in pools_of(records)}
        names = [f"{low}-{high - 1}, n={counts[low, high]}" for low, high in ranges]
        return accuracy_chart("Look-ups in long prompts", "prompt (tokens)", names, series)

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        long = [record for record in records if record.cell["tokens"][0] >= _BINS[1][0] and record.result["right"]]
        if not long:
            return Verdict(None, f"There are no long prompts here: the task {self._task} is not embedded, or has none.")
        none = pool(long, NONE)
        found: list[Difference] = [pool(long, policy).less(none) for policy in (_PREFILL, _ADAPTIVE)]
        told = f"dkv-prefill {found[0]}; dllm-cache {found[1]}"
        sentence = f"Prompts of {_BINS[1][0]} tokens and more, against no cache: {told}."
        return Verdict(all_of(kept(difference, _LOSS) for difference in found), sentence)
