"""How often must everything be computed again?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dkv.lab.study.accuracy import NONE, Accuracy, Policy, pool
from dkv.lab.study.base import Record, Verdict
from dkv.lab.study.verdicts import kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Refresh"]


def _policy(refresh: int) -> Policy:
    return Policy(f"dkv-decode:refresh={refresh}")


class Refresh(Accuracy):
    """Rule: refresh 8 against no cache. Held if the paired interval's lower bound is at least -2 points; not if its
    upper bound is below that. The sentence names the largest interval that can be told to lose no more."""

    name: ClassVar[str] = "refresh"
    claim: ClassVar[str] = (
        "dKV-Cache-Decode at refresh 8 is almost lossless (arXiv 2505.15781, table 1, LLaDA-8B-Instruct: MMLU 51.11 to "
        "51.00, GSM8K 77.56 to 78.85, MBPP 40.4 to 40.4)."
    )
    refreshes: ClassVar[tuple[int, ...]] = (2, 4, 8, 16, 32)

    def policies(self, quick: bool) -> Sequence[Policy]:
        """No cache, and refresh intervals; quick: 4, 8, 16."""
        return [NONE, *map(_policy, self.refreshes[1:4] if quick else self.refreshes)]

    def figure(self, records: Sequence[Record]) -> Figure:
        """A line over the interval; no cache stands at 1."""
        from dkv.lab.study.accuracy_plot import accuracy_and_rows

        policies = list(dict.fromkeys(Policy(record.cell["cache"]) for record in records))
        names = ["1 (none)" if p == NONE else p.cache.rpartition("=")[2] for p in policies]
        return accuracy_and_rows(
            "dkv-decode: the refresh interval",
            "refresh (steps)",
            names,
            {"dkv-decode": [pool(records, p) for p in policies]},
        )

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        none, known = pool(records, NONE), {record.cell["cache"] for record in records}
        found = {r: pool(records, _policy(r)).less(none) for r in self.refreshes if _policy(r).cache in known}
        safe = [r for r, difference in found.items() if kept(difference)]
        largest = f"up to {max(safe)}" if safe else "of none of those measured"
        told = f"That no more than 2 points are lost can be told {largest}."
        return Verdict(kept(found[8]), f"At refresh 8, against no cache: {found[8]}. {told}")
