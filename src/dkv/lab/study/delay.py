"""Is storing a decoded token's keys and values one step late worth it?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dkv.lab.study.accuracy import NONE, Accuracy, Policy, pool
from dkv.lab.study.base import Record, Verdict
from dkv.lab.study.verdicts import gained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Delay"]

_REFRESHES, _DELAYS = (4, 8, 16), (0, 1, 2)


def _policy(refresh: int, delay: int) -> Policy:
    return Policy(f"dkv-decode:refresh={refresh},delay={delay}")


class Delay(Accuracy):
    """Rule: at refresh 8, delay 1 against delay 0. Held if the paired interval lies above 0; not if it says that less
    than 2 points were gained."""

    name: ClassVar[str] = "delay"
    claim: ClassVar[str] = (
        "Storing a token's keys and values one step after it was decoded, instead of at once, keeps the accuracy of "
        "dKV-Cache-Decode (arXiv 2505.15781, section 3.2; its tables are at delay 1, refresh 8)."
    )

    def policies(self, quick: bool) -> Sequence[Policy]:
        """The delays at each refresh interval; quick: at 8 and 16, and no delay of 2."""
        delays = _DELAYS[:2] if quick else _DELAYS
        return [NONE, *(_policy(r, d) for r in (_REFRESHES[1:] if quick else _REFRESHES) for d in delays)]

    def figure(self, records: Sequence[Record]) -> Figure:
        """A line for each delay over the refresh interval."""
        from dkv.lab.study.accuracy_plot import accuracy_and_rows

        known = {record.cell["cache"] for record in records}
        refreshes = [r for r in _REFRESHES if _policy(r, 1).cache in known]
        delays = [d for d in _DELAYS if _policy(8, d).cache in known]
        series = {f"delay {d}": [pool(records, _policy(r, d)) for r in refreshes] for d in delays}
        none = {"no cache": [pool(records, NONE) for _ in refreshes]}
        return accuracy_and_rows("dkv-decode: the delay", "refresh (steps)", list(map(str, refreshes)), none | series)

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        difference = pool(records, _policy(8, 1)).less(pool(records, _policy(8, 0)))
        return Verdict(gained(difference), f"At refresh 8 the delay of one step is worth {difference}.")
