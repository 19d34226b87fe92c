"""What is each part of dKV-Cache worth: caching at all, the delay, the refresh, the compact subset?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dkv.lab.study.accuracy import NONE, Accuracy, Policy, Pool, pool
from dkv.lab.study.base import Record, Verdict
from dkv.lab.study.verdicts import all_of, gained, kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Components"]

_NEVER = 1024
"""Beyond any response here: everything is computed at the first step, and not again."""


def _decode(delay: int, refresh: int) -> Policy:
    return Policy(f"dkv-decode:refresh={refresh},delay={delay}")


def _greedy(refresh: int) -> Policy:
    return Policy(f"dkv-greedy:refresh={refresh},window=4")


_WHOLE = _decode(1, 8)

_SHOWN = {
    "no cache": NONE,
    "at once, never refreshed": _decode(0, _NEVER),
    "at once": _decode(0, 8),
    "delayed, never refreshed": _decode(1, _NEVER),
    "delayed": _WHOLE,
    "compact, never refreshed": _greedy(_NEVER),
    "compact": _greedy(8),
}


class Components(Accuracy):
    """The delay, the refresh (8 against never) and the compact subset (dkv-greedy, which is always delayed), crossed.

    Rule, on pairs: held if the delay gains and the refresh gains (intervals above 0), the compact subset loses at most
    2 points to dkv-decode (lower bound at least -2), and caching and the compact subset each compute fewer rows. Not,
    if one of these is refuted.
    """

    name: ClassVar[str] = "components"
    claim: ClassVar[str] = (
        "Each part of dKV-Cache earns its place (arXiv 2505.15781): caching saves work (LLaDA-8B-Instruct, GSM8K: 1.92 "
        "times faster at refresh 8), the delay and the refresh keep the accuracy, the compact subset saves more work."
    )

    def policies(self, quick: bool) -> Sequence[Policy]:
        """All that can be combined."""
        return list(_SHOWN.values())

    def figure(self, records: Sequence[Record]) -> Figure:
        """Accuracy, rows and processor time of each combination."""
        from dkv.lab.study.accuracy_plot import Panel, Point, draw, percent

        pools = [pool(records, policy) for policy in _SHOWN.values()]
        panels = [
            Panel(
                f"right answers (%), n={len(pools[0].right)}, 95% interval",
                {"": [percent(p.share) for p in pools]},
                0,
                105,
            ),
            Panel("rows computed (% of no cache)", {"": [Point(100 * p.rows_share) for p in pools]}, 0, 105),
            Panel("processor time (s an answer)", {"": [Point(p.cpu_seconds / len(p.right)) for p in pools]}, 0),
        ]
        return draw("The parts of dKV-Cache", "", list(_SHOWN), panels, joined=False)

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        none, whole, compact = (pool(records, policy) for policy in (NONE, _WHOLE, _greedy(8)))
        delay = whole.less(pool(records, _decode(0, 8)))
        refresh = whole.less(pool(records, _decode(1, _NEVER)))
        subset = compact.less(whole)
        fewer = (whole.rows_share < none.rows_share, compact.rows_share < whole.rows_share)
        sentence = (
            f"Delayed caching at refresh 8: {_work(whole, none)}, accuracy {whole.less(none)}. The delay is worth "
            f"{delay}; the refresh {refresh}; the compact subset: {_work(compact, none)}, accuracy against dkv-decode "
            f"{subset}."
        )
        return Verdict(all_of((*fewer, gained(delay), gained(refresh), kept(subset))), sentence)


def _work(one: Pool, none: Pool) -> str:
    """Its rows, and its processor time if that was taken."""
    rows = f"{one.rows_share / none.rows_share:.0%} of the rows"
    return f"{rows} and {one.cpu_seconds / none.cpu_seconds:.0%} of the processor time" if none.cpu_seconds else rows
