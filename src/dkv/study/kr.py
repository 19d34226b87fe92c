"""How often must dllm-cache renew the whole response?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dkv.study.accuracy import NONE, Accuracy, Policy, pool
from dkv.study.base import Record, Verdict
from dkv.study.judging import kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ResponseInterval"]


def _policy(interval: int) -> Policy:
    return Policy(f"dllm-cache:kr={interval}")


class ResponseInterval(Accuracy):
    """Rule: kr 7 against kr 1, all else as published (kp 50, kr 7, rho 0.25). Held if the paired interval's lower
    bound is at least -2 points; not if its upper bound is below that."""

    name: ClassVar[str] = "kr"
    claim: ClassVar[str] = (
        "The response needs to be renewed only every few steps, given V-verify in between (dLLM-Cache, arXiv "
        "2506.06295: kr from 4 to 8 in most published LLaDA settings; LLaDA-Instruct, GSM8K: kr 7)."
    )
    intervals: ClassVar[tuple[int, ...]] = (1, 2, 4, 7, 10, 20)

    def policies(self, quick: bool) -> Sequence[Policy]:
        """No cache, and intervals; quick: 1, 4, 7 and 20."""
        return [NONE, *map(_policy, (1, 4, 7, 20) if quick else self.intervals)]

    def figure(self, records: Sequence[Record]) -> Figure:
        """A line over the interval, beside no cache."""
        from dkv.study.drawing import accuracy_and_rows

        policies = list(dict.fromkeys(Policy(record.cell["cache"]) for record in records))
        names = ["none" if p == NONE else p.cache.rpartition("=")[2] for p in policies]
        series = {
            "no cache": [pool(records, p) if p == NONE else None for p in policies],
            "dllm-cache, kp 50, rho 0.25": [None if p == NONE else pool(records, p) for p in policies],
        }
        return accuracy_and_rows("dllm-cache: how often the response is renewed", "kr (steps)", names, series)

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        published = pool(records, _policy(7))
        loss, against = published.less(pool(records, _policy(1))), published.less(pool(records, NONE))
        return Verdict(kept(loss), f"kr 7 against kr 1: {loss}; against no cache: {against}.")
