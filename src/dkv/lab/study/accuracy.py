"""Accuracy studies: policies times tasks, to right and wrong example by example.

What is kept of a cell are flags and digests in the order of the examples, so that any two cells of a task can be paired
afterwards: for accuracy (who was right) and for agreement (who said the same).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dkv.caches import make_cache
from dkv.core.registry import spec_of
from dkv.lab.common.charts import Chart, Ends, Panel, Series
from dkv.lab.common.grouping import grouped
from dkv.lab.eval.answers import gather, missing, run, warm_up
from dkv.lab.eval.eval_table import ExampleOutcome
from dkv.lab.eval.questions import Setting, digest
from dkv.lab.eval.statistics import Difference, Share
from dkv.lab.eval.suites import Suite, embedded
from dkv.lab.study.base import Cell, Effort, Record
from dkv.lab.study.context import Kit

__all__ = [
    "NONE", "Accuracy", "Policy", "Pool", "accuracy_chart", "cells_of", "gathered", "measured", "percent", "pool",
    "pooled", "pools_of", "result_of", "share_panel", "share_series", "value_panel",
]  # fmt: skip

QUICK_TASKS = ("words",)
TASKS = ("words", "lists", "code")
"""Of the embedded tasks those on which a cache can lose; in a quick study the one on which it loses most."""

Summary = Callable[[Sequence[ExampleOutcome]], dict[str, Any]]


@dataclass(frozen=True)
class Policy:
    """One setting."""

    cache: str  # a spec
    decoder: str | None = None  # a spec; None = the model's own

    @property
    def label(self) -> str:
        """As plots and tables call it."""
        return self.cache if self.decoder is None else f"{self.cache}, {self.decoder} order"

    @property
    def fields(self) -> Cell:
        """Its part of a cell."""
        return {"cache": self.cache, "decoder": self.decoder}


NONE = Policy("none")


class Accuracy:
    """The part that most accuracy studies share: a cell is a task under a policy."""

    tasks: ClassVar[Sequence[str]] = TASKS  # of a study that is not quick

    def policies(self, quick: bool) -> Sequence[Policy]:
        """What is compared."""
        raise NotImplementedError

    def cells(self, effort: Effort) -> Sequence[Cell]:
        """Every policy on every task."""
        return cells_of(self.policies(effort.quick), effort, self.tasks)

    def measure(self, kit: Kit, cells: Sequence[Cell]) -> Iterator[Record]:
        """Ask what the answers' file lacks."""
        return measured(kit, cells)


def cells_of(policies: Sequence[Policy], effort: Effort, tasks: Sequence[str] = TASKS) -> list[Cell]:
    """A cell for each task (in a quick study the quick ones) and policy, task by task."""
    asked = QUICK_TASKS if effort.quick else tasks
    return [{"task": task, "count": effort.count, **policy.fields} for task in asked for policy in policies]


def measured(kit: Kit, cells: Sequence[Cell]) -> Iterator[Record]:
    """Cells on the models that they name (`model`; else the studied one), each as soon as its last batch is there."""
    for (_, task, count), group in grouped(
        cells, lambda cell: (cell.get("model"), cell["task"], cell["count"])
    ).items():
        yield from gathered(kit, embedded(task, count), group)


def gathered(kit: Kit, suite: Suite, cells: Sequence[Cell], result: Summary | None = None) -> Iterator[Record]:
    """Cells of one model that ask the same questions. Every setting takes a batch before the next batch starts.
    result: what is kept of a cell, `result_of` by default."""
    asker = kit.asker(cells[0].get("model"))
    own = asker.lm.model.config.default_decoder
    # The spec with every key, so that one policy has one spelling among the answers.
    left = [(cell, Setting(cell["decoder"] or own, spec_of(make_cache(cell["cache"])))) for cell in cells]
    settings = list(dict.fromkeys(setting for _, setting in left))
    total = outstanding = sum(missing(asker.store, suite, [setting]) for setting in settings)
    if total:
        warm_up(asker, suite.questions[0], settings)
    asked = run(asker, suite, settings)
    while left:
        kit.tell(f"{suite.name}: {total - outstanding} of {total} answers")
        count = next(asked, 0)
        outstanding -= count
        done = [pair for pair in left if not count or not missing(asker.store, suite, [pair[1]])]
        for cell, setting in done:
            (found,) = gather(asker.store, suite, [setting])
            yield Record(cell, (result or result_of)(list(found.outcomes.values())))
        left = [pair for pair in left if pair not in done]


def result_of(outcomes: Sequence[ExampleOutcome]) -> dict[str, Any]:
    """What is kept of a cell. right, said: by example, said being a digest of the text; rows and rows_total as in
    `dkv.Stats`; tokens up to the end-of-text; seconds of wall-clock and of processor time, all summed."""
    return {
        "right": [outcome.value == 1 for outcome in outcomes],
        "said": [digest({"text": outcome.output})[:8] for outcome in outcomes],
        "rows": sum(outcome.rows for outcome in outcomes),
        "rows_total": sum(outcome.rows_total for outcome in outcomes),
        "tokens": sum(outcome.tokens for outcome in outcomes),
        "seconds": sum(outcome.seconds for outcome in outcomes),
        "cpu_seconds": sum(outcome.cpu for outcome in outcomes),
    }


@dataclass(frozen=True)
class Pool:
    """Some cells of one policy together: of several tasks, say. Their order is that of the other pools of a study."""

    right: tuple[bool, ...]
    said: tuple[str, ...]
    rows_share: float  # of no cache's
    tokens: int
    tokens_per_second: float
    cpu_seconds: float

    @property
    def share(self) -> Share:
        """Right answers."""
        return Share(sum(self.right), len(self.right))

    def less(self, other: Pool) -> Difference:
        """This accuracy less the other, on pairs."""
        return Difference.of(self.right, other.right)

    def agreement(self, other: Pool) -> Share:
        """Texts that are the same."""
        return Share(sum(a == b for a, b in zip(self.said, other.said, strict=True)), len(self.said))


def pooled(records: Sequence[Record]) -> Pool:
    """Records of one policy as a pool, in their order."""
    results = [record.result for record in records]
    rows, total, tokens, seconds, cpu = (
        sum(result[name] for result in results) for name in ("rows", "rows_total", "tokens", "seconds", "cpu_seconds")
    )
    return Pool(
        right=tuple(flag for result in results for flag in result["right"]),
        said=tuple(text for result in results for text in result["said"]),
        rows_share=rows / total if total else 0.0,
        tokens=tokens,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        cpu_seconds=cpu,
    )


def pools_of(records: Sequence[Record]) -> dict[Policy, Pool]:
    """All that was measured, by policy."""
    found = grouped(records, lambda record: Policy(record.cell["cache"], record.cell["decoder"]))
    return {policy: pooled(some) for policy, some in found.items()}


def pool(records: Sequence[Record], policy: Policy) -> Pool:
    """All that was measured of a policy. Raises KeyError where nothing was."""
    found = pools_of(records)
    if policy not in found:
        raise KeyError(policy.label)
    return found[policy]


Pools = Sequence[Pool | None]
"""Of one series: a pool for each category, None where nothing was measured."""


def share_series(name: str, shares: Sequence[Share | None], style: str = "-") -> Series:
    """Shares with their intervals, in percent."""
    values = [None if share is None else 100 * share.value for share in shares]
    return Series(
        name, values, ends=[None if share is None else percent(share.interval) for share in shares], style=style
    )


def percent(ends: Ends) -> Ends:
    """An interval of shares, in percent."""
    return 100 * ends[0], 100 * ends[1]


def share_panel(x: str, categories: Sequence[str], series: Mapping[str, Pools], style: str = "-") -> Panel:
    """Right answers over the categories."""
    counts = {len(p.right) for pools in series.values() for p in pools if p is not None}
    label = ", ".join(["right answers (%)", *(f"n={n}" for n in counts if len(counts) == 1), "95% interval"])
    shares = {name: [None if p is None else p.share for p in pools] for name, pools in series.items()}
    drawn = [share_series(name, some, style) for name, some in shares.items()]
    return Panel(x, label, series=drawn, categories=categories, low=0, high=105)


def value_panel(
    x: str,
    y: str,
    categories: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    style: str = "-",
    high: float | None = None,
) -> Panel:
    """Values without intervals over the categories, from 0 on."""
    drawn = [Series(name, values, style=style) for name, values in series.items()]
    return Panel(x, y, series=drawn, categories=categories, low=0, high=high)


def accuracy_chart(
    title: str, x: str, categories: Sequence[str], series: Mapping[str, Pools], style: str = "-"
) -> Chart:
    """Accuracy beside the rows computed, over the categories."""
    rows = {name: [None if p is None else 100 * p.rows_share for p in pools] for name, pools in series.items()}
    label = "rows computed (% of no cache)"
    panels = [share_panel(x, categories, series, style), value_panel(x, label, categories, rows, style, 105)]
    return Chart(title, panels, 2)
