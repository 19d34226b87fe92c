"""How long may dllm-cache keep the prompt?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dkv.study.accuracy import NONE, Accuracy, Policy, pool
from dkv.study.base import Record, Verdict
from dkv.study.judging import kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PromptInterval"]


def _policy(interval: int) -> Policy:
    return Policy(f"dllm-cache:kp={interval}")


class PromptInterval(Accuracy):
    """Rule: kp 50 against kp 1, all else as published (kp 50, kr 7, rho 0.25). Held if the paired interval's lower
    bound is at least -2 points; not if its upper bound is below that."""

    name: ClassVar[str] = "kp"
    claim: ClassVar[str] = (
        "The prompt's features can be kept for tens of steps (dLLM-Cache, arXiv 2506.06295: kp from 25 to 100 in most "
        "published LLaDA settings, 50 in most; HotpotQA F1 34.56 to 36.10 at kp 100, kr 8)."
    )
    intervals: ClassVar[tuple[int, ...]] = (1, 10, 25, 50, 100)

    def policies(self, quick: bool) -> Sequence[Policy]:
        """No cache, and intervals; quick: 1, 10 and 50."""
        return [NONE, *map(_policy, (1, 10, 50) if quick else self.intervals)]

    def figure(self, records: Sequence[Record]) -> Figure:
        """A line over the interval, beside no cache."""
        from dkv.study.drawing import accuracy_and_rows

        policies = list(dict.fromkeys(Policy(record.cell["cache"]) for record in records))
        names = ["none" if p == NONE else p.cache.rpartition("=")[2] for p in policies]
        series = {
            "no cache": [pool(records, p) if p == NONE else None for p in policies],
            "dllm-cache, kr 7, rho 0.25": [None if p == NONE else pool(records, p) for p in policies],
        }
        return accuracy_and_rows("dllm-cache: how often the prompt is renewed", "kp (steps)", names, series)

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        published = pool(records, _policy(50))
        loss, against = published.less(pool(records, _policy(1))), published.less(pool(records, NONE))
        return Verdict(kept(loss), f"kp 50 against kp 1: {loss}; against no cache: {against}.")
