"""Accuracy studies: policies times tasks, to right and wrong example by example.

What is kept of a cell are flags and digests in the order of the examples, so that any two cells of a task can be paired
afterwards: for accuracy (who was right) and for agreement (who said the same).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dkv.caches import make_cache
from dkv.core.registry import spec_of
from dkv.lab.eval.answers import warm_up
from dkv.lab.eval.eval_settings import Setting
from dkv.lab.eval.measured import ExampleOutcome
from dkv.lab.eval.questions import digest
from dkv.lab.eval.run import gather, missing, run
from dkv.lab.eval.statistics import Difference, Share
from dkv.lab.eval.suite import Suite, embedded
from dkv.lab.study.base import Cell, Effort, Record
from dkv.lab.study.context import Kit

__all__ = [
    "NONE",
    "Accuracy",
    "Policy",
    "Pool",
    "cells_of",
    "gathered",
    "known_pool",
    "measured",
    "pool",
    "pooled",
    "result_of",
]

QUICK_TASKS = ("words",)
TASKS = ("words", "lists", "code")
"""Of the embedded tasks those on which a cache can lose; in a quick study the one on which it loses most."""

Summary = Callable[[Sequence[ExampleOutcome]], dict[str, Any]]


@dataclass(frozen=True)
class Policy:
    """One setting. cache: a spec; decoder: a spec, None = the model's own."""

    cache: str
    decoder: str | None = None

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
    """The part that most accuracy studies share: a cell is a task under a policy. tasks: of a study that is not
    quick."""

    tasks: ClassVar[Sequence[str]] = TASKS

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
    alike: dict[str, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(digest({name: cell.get(name) for name in ("model", "task", "count")}), []).append(cell)
    for group in alike.values():
        suite = embedded(group[0]["task"], group[0]["count"])
        yield from gathered(kit, suite, group)


def gathered(kit: Kit, suite: Suite, cells: Sequence[Cell], result: Summary | None = None) -> Iterator[Record]:
    """Cells of one model that ask the same questions. Every setting takes a batch before the next batch starts.
    result: what is kept of a cell, `result_of` by default."""
    asker = kit.asker(cells[0].get("model"))
    own = asker.lm.model.config.default_decoder
    left = [(cell, Setting(cell["decoder"] or own, _whole(cell["cache"]))) for cell in cells]
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


def _whole(cache: str) -> str:
    """The spec with every key, so that one policy has one spelling among the answers."""
    return spec_of(make_cache(cache))


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
    rows_share: float
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
    total, seconds = (sum(result[name] for result in results) for name in ("rows_total", "seconds"))
    return Pool(
        right=tuple(flag for result in results for flag in result["right"]),
        said=tuple(text for result in results for text in result["said"]),
        rows_share=sum(result["rows"] for result in results) / total if total else 0.0,
        tokens=sum(result["tokens"] for result in results),
        tokens_per_second=sum(result["tokens"] for result in results) / seconds if seconds else 0.0,
        cpu_seconds=sum(result["cpu_seconds"] for result in results),
    )


def known_pool(records: Sequence[Record], policy: Policy) -> Pool | None:
    """What was measured of a policy, None where nothing was."""
    try:
        return pool(records, policy)
    except KeyError:
        return None


def pool(records: Sequence[Record], policy: Policy) -> Pool:
    """All that was measured of a policy. Raises KeyError where nothing was."""
    found = [record for record in records if policy.fields.items() <= record.cell.items()]
    if not found:
        raise KeyError(policy.label)
    return pooled(found)
