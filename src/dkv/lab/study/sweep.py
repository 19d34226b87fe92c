"""The shape of most accuracy studies: policies, which of them are compared, and how the outcome is told and drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dkv.lab.common.charts import Chart
from dkv.lab.eval.statistics import Difference
from dkv.lab.study.accuracy import NONE, Accuracy, Policy, Pool, accuracy_chart, pool, pools_of, value_panel
from dkv.lab.study.base import Record, Verdict
from dkv.lab.study.verdicts import MARGIN, Mean, all_of

__all__ = ["Compared", "Sweep"]


@dataclass(frozen=True)
class Compared:
    """A policy less another, on pairs of examples."""

    one: Policy
    other: Policy
    rule: Callable[[Difference | Mean, float], bool | None] | None = None  # what it must be; None = it is only told
    margin: float = MARGIN
    fewer: bool = False  # it must also compute fewer rows


@dataclass(frozen=True)
class _Found:
    """What came out of a comparison, as a sentence tells it: `{name}`, `{name.rows}`, `{name.work}`."""

    one: Pool
    other: Pool

    def __str__(self) -> str:
        return str(self.one.less(self.other))

    @property
    def rows(self) -> str:
        """Of no cache's."""
        return f"{self.one.rows_share:.0%} of the rows"

    @property
    def work(self) -> str:
        """Its rows, and its processor time if that was taken, of the other's."""
        rows = f"{self.one.rows_share / self.other.rows_share:.0%} of the rows"
        if not self.other.cpu_seconds:
            return rows
        return f"{rows} and {self.one.cpu_seconds / self.other.cpu_seconds:.0%} of the processor time"


@dataclass(frozen=True)
class Sweep(Accuracy):
    """One study. It held if every comparison with a rule follows it, and did not if one is refuted."""

    name: str
    claim: str
    full: Sequence[Policy]
    compared: Mapping[str, Compared]
    sentence: str  # with the comparisons by name
    title: str
    axis: str
    categories: Sequence[str]
    lines: Mapping[str, Sequence[Policy | None]]  # by name: a policy for each category
    quick: Sequence[Policy] = ()  # of a quick study; () = the same
    style: str = "-"
    time: Literal["s an answer", "% of no cache"] | None = None  # processor time is drawn too, so; no cache: first line
    also: Callable[[Sequence[Record]], str] = lambda records: ""  # told at the end

    def policies(self, quick: bool) -> Sequence[Policy]:
        """What is compared."""
        return (quick and self.quick) or self.full

    def chart(self, records: Sequence[Record]) -> Chart:
        """Right answers and rows of what was measured, and processor time where the study tells it."""
        known = pools_of(records)
        told = [n for n in range(len(self.categories)) if self._tells(n, known)]
        names = [self.categories[n] for n in told]
        lines = {
            name: [None if (p := policies[n]) is None else known.get(p) for n in told]
            for name, policies in self.lines.items()
            if any(p in known for p in policies)
        }
        chart = accuracy_chart(self.title, self.axis, names, lines, self.style)
        if self.time is None:
            return chart
        label = f"processor time ({self.time})"
        panels = [*chart.panels, value_panel(self.axis, label, names, self._times(lines), self.style)]
        return replace(chart, panels=panels, columns=3)

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the comparisons. Raises KeyError where one of their policies was not measured."""
        found = {name: _Found(pool(records, c.one), pool(records, c.other)) for name, c in self.compared.items()}
        answers: list[bool | None] = []
        for name, c in self.compared.items():
            one, other = found[name].one, found[name].other
            if c.rule is not None:
                answers.append(c.rule(one.less(other), c.margin))
            if c.fewer:
                answers.append(one.rows_share < other.rows_share)
        return Verdict(all_of(answers), self.sentence.format(**found) + self.also(records))

    def _tells(self, number: int, known: Mapping[Policy, Pool]) -> bool:
        """Whether a category shows more than no cache, which is drawn beside all of them."""
        policies = [line[number] for line in self.lines.values()]
        own = [p for p in policies if p not in (None, NONE)] or policies
        return any(p in known for p in own)

    def _times(self, lines: Mapping[str, Sequence[Pool | None]]) -> dict[str, list[float | None]]:
        base = next(iter(lines.values()))

        def time(p: Pool | None, none: Pool | None) -> float | None:
            if p is None or none is None:
                return None
            if self.time == "s an answer":
                return p.cpu_seconds / len(p.right)
            return 100 * p.cpu_seconds / none.cpu_seconds if none.cpu_seconds else None

        return {name: [time(*pair) for pair in zip(pools, base, strict=True)] for name, pools in lines.items()}
