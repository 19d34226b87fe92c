"""What the studies of dllm-cache's two intervals share: one key swept, the published value judged against 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dkv.lab.study.accuracy import NONE, Accuracy, Policy, pool
from dkv.lab.study.base import Record, Verdict
from dkv.lab.study.verdicts import kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Renewal"]


class Renewal(Accuracy):
    """Rule: the published value of the key against 1, all else as published (kp 50, kr 7, rho 0.25). Held if the paired
    interval's lower bound is at least -2 points; not if its upper bound is below that.

    key: kp or kr; published: its value; intervals, some: those measured, and those of a quick study; title: of the
    plot; others: the keys that stay as they are.
    """

    key: ClassVar[str]
    published: ClassVar[int]
    intervals: ClassVar[tuple[int, ...]]
    some: ClassVar[tuple[int, ...]]
    title: ClassVar[str]
    others: ClassVar[str]

    def policies(self, quick: bool) -> Sequence[Policy]:
        """No cache, and intervals."""
        return [NONE, *map(self._policy, self.some if quick else self.intervals)]

    def figure(self, records: Sequence[Record]) -> Figure:
        """A line over the interval, beside no cache."""
        from dkv.lab.study.accuracy_plot import beside_none

        return beside_none(self.title, f"{self.key} (steps)", f"dllm-cache, {self.others}", records)

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        published = pool(records, self._policy(self.published))
        loss, against = published.less(pool(records, self._policy(1))), published.less(pool(records, NONE))
        key = self.key
        return Verdict(kept(loss), f"{key} {self.published} against {key} 1: {loss}; against no cache: {against}.")

    def _policy(self, interval: int) -> Policy:
        return Policy(f"dllm-cache:{self.key}={interval}")
