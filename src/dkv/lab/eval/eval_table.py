"""What came out of one task under one setting, example by example, and the table of all that people read.

A difference exists only as a `Difference`, which cannot be printed without its count and interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dkv.lab.eval.questions import Setting
from dkv.lab.eval.statistics import Difference, Share

__all__ = [
    "ALL", "HEADINGS", "ExampleOutcome", "ResultRow", "TaskOutcomes", "as_json", "cells", "markdown", "pooled",
    "summaries",
]  # fmt: skip

ALL = "all"
"""In place of a task: the examples of all of them."""

HEADINGS = ("task", "decoder", "cache", "score", "against no cache", "agree", "rows", "tokens/s")


@dataclass(frozen=True)
class ExampleOutcome:
    """One example. value: the metric, 1 or 0 for right or wrong; output: what the model answered, compared for
    agreement; tokens, seconds, cpu (seconds), rows, rows_total, forwards: of its generation, 0 where there was none."""

    value: float
    output: str
    tokens: int = 0
    seconds: float = 0.0
    rows: float = 0.0
    rows_total: float = 0.0
    cpu: float = 0.0
    forwards: int = 0


@dataclass(frozen=True)
class TaskOutcomes:
    """The outcomes of a task under a setting, by example. metric: what `value` is."""

    task: str
    setting: Setting
    metric: str = "accuracy"
    outcomes: Mapping[str, ExampleOutcome] = field(default_factory=dict)

    @property
    def binary(self) -> bool:
        """Whether every value says right or wrong."""
        return all(outcome.value in (0, 1) for outcome in self.outcomes.values())


@dataclass(frozen=True)
class ResultRow:
    """One line of a table. share: right answers, None where the metric is no matter of right or wrong; mean, error:
    the metric's mean and its standard error; difference, agreement: against no cache on the examples that both have,
    None where there is nothing to compare; rows: share of the rows that no cache computes in as many forwards;
    speed: tokens a second of whole batches; None where nothing was generated."""

    task: str
    metric: str
    setting: Setting
    count: int
    share: Share | None
    mean: float
    error: float
    difference: Difference | None
    agreement: Share | None
    rows: float | None
    speed: float | None

    @property
    def score(self) -> str:
        """The result with its count and its uncertainty."""
        if self.share is not None:
            return str(self.share)
        return f"{self.mean:.4g} ± {self.error:.2g} (standard error), n={self.count}"


def pooled(measured: Sequence[TaskOutcomes]) -> list[TaskOutcomes]:
    """Right and wrong answers of all tasks together, setting by setting; nothing where there are not several tasks. An
    example counts as one, so a task counts by its examples."""
    judged = [m for m in measured if m.binary and m.outcomes]
    if len({m.task for m in judged}) < 2:
        return []
    return [
        TaskOutcomes(
            ALL,
            setting,
            outcomes={f"{m.task} {n}": o for m in judged if m.setting == setting for n, o in m.outcomes.items()},
        )
        for setting in dict.fromkeys(m.setting for m in judged)
    ]


def summaries(measured: Sequence[TaskOutcomes], reference: Setting | None = None) -> list[ResultRow]:
    """A row for each task and setting with at least one outcome: task by task, else in the order given. reference: what
    every setting is compared with, None = no cache and all else equal."""
    known = {(m.task, m.metric, m.setting): m for m in measured}

    def base(m: TaskOutcomes) -> TaskOutcomes | None:
        other = m.setting.base if reference is None else reference
        return None if m.setting == other else known.get((m.task, m.metric, other))

    return [
        _row(m, base(m))
        for task in dict.fromkeys((m.task, m.metric) for m in measured)
        for m in measured
        if m.outcomes and (m.task, m.metric) == task
    ]


def _row(m: TaskOutcomes, base: TaskOutcomes | None) -> ResultRow:
    outcomes = list(m.outcomes.values())
    total, seconds = sum(o.rows_total for o in outcomes), sum(o.seconds for o in outcomes)
    mean, error = _mean(outcomes)
    difference, agreement = (None, None) if base is None else _against(m, base)
    return ResultRow(
        task=m.task,
        metric=m.metric,
        setting=m.setting,
        count=len(outcomes),
        share=Share(sum(o.value == 1 for o in outcomes), len(outcomes)) if m.binary else None,
        mean=mean,
        error=error,
        difference=difference,
        agreement=agreement,
        rows=sum(o.rows for o in outcomes) / total if total else None,
        speed=sum(o.tokens for o in outcomes) / seconds if seconds else None,
    )


def _mean(outcomes: Sequence[ExampleOutcome]) -> tuple[float, float]:
    """Mean and its standard error; infinite for a single example."""
    count = len(outcomes)
    mean = sum(o.value for o in outcomes) / count
    if count == 1:
        return mean, math.inf
    return mean, math.sqrt(sum((o.value - mean) ** 2 for o in outcomes) / (count - 1) / count)


def _against(m: TaskOutcomes, base: TaskOutcomes) -> tuple[Difference | None, Share | None]:
    shared = [(m.outcomes[key], base.outcomes[key]) for key in m.outcomes if key in base.outcomes]
    if not shared:
        return None, None
    agreement = Share(sum(a.output == b.output for a, b in shared), len(shared))
    if not (m.binary and base.binary):
        return None, agreement
    return Difference.of([a.value == 1 for a, _ in shared], [b.value == 1 for _, b in shared]), agreement


def cells(row: ResultRow) -> tuple[str, ...]:
    """What stands under the headings."""
    task = row.task if row.metric == "accuracy" else f"{row.task}: {row.metric}"
    return (
        task,
        str(row.setting),
        row.setting.cache,
        row.score,
        "" if row.difference is None else str(row.difference),
        "" if row.agreement is None else f"{row.agreement.value:.1%}",
        "" if row.rows is None else f"{row.rows:.0%}",
        "" if row.speed is None else f"{row.speed:.1f}",
    )


def markdown(rows: Sequence[ResultRow]) -> str:
    """A table."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *map(cells, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def as_json(row: ResultRow) -> dict[str, Any]:
    """Every figure of a row."""
    shares = {
        name: None if s is None else {**asdict(s), "value": s.value, "interval": list(s.interval)}
        for name, s in (("share", row.share), ("agreement", row.agreement))
    }
    d = row.difference
    return {
        "task": row.task,
        "metric": row.metric,
        **asdict(row.setting),
        "count": row.count,
        "mean": row.mean,
        "standard_error": row.error if row.count > 1 else None,
        "share": shares["share"],
        "difference": d and {**asdict(d), "count": d.count, "value": d.value, "interval": list(d.interval), "p": d.p},
        "agreement": shares["agreement"],
        "rows_share": row.rows,
        "tokens_per_second": row.speed,
    }
