"""What does each published variant give up, and for how much work?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dkv.lab.study.accuracy import NONE, Accuracy, Policy, Pool, pool
from dkv.lab.study.base import Record, Verdict
from dkv.lab.study.verdicts import all_of, kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dkv.lab.study.accuracy_plot import Point

__all__ = ["Variants"]

_RANDOM = Policy("none", "random")

_SHOWN: dict[str, tuple[Policy, Policy, float]] = {
    "decode, refresh 8": (Policy("dkv-decode:refresh=8"), NONE, 0.02),
    "decode, refresh 4": (Policy("dkv-decode:refresh=4"), NONE, 0.02),
    "prefill": (Policy("dkv-prefill"), NONE, 0.03),
    "pd, refresh 4": (Policy("dkv-pd:refresh=4"), NONE, 0.05),
    "greedy, random order": (Policy("dkv-greedy:refresh=2,window=4", "random"), _RANDOM, 0.05),
}
"""By name: the variant as published, what it is compared with, and the share of answers that it may lose: about what
it loses on most tasks of its paper."""


class Variants(Accuracy):
    """Rule, each on pairs with no cache in the same order: Decode loses at most 2 points, Prefill 3, PD 5, Greedy 5,
    and each computes fewer rows. Held if all do (the interval's lower bounds say so); not if one is refuted."""

    name: ClassVar[str] = "variants"
    claim: ClassVar[str] = (
        "dKV-Cache (arXiv 2505.15781): Decode is nearly lossless (LLaDA-8B-Instruct, refresh 8, GSM8K 77.56 to 78.85 "
        "at 1.92x; Dream-7B, refresh 4, 76.88 to 76.57 at 2.09x); Prefill and PD trade a little for more speed "
        "(Dream-7B, 75.66 at 3.55x and 74.07 at 3.32x); Greedy in random order trades more (72.25 to 68.23 at 1.63x)."
    )

    def policies(self, quick: bool) -> Sequence[Policy]:
        """Every variant, and what each is compared with."""
        return list(dict.fromkeys(p for policy, base, _ in _SHOWN.values() for p in (base, policy)))

    def figure(self, records: Sequence[Record]) -> Figure:
        """Accuracy, rows and processor time of each variant beside no cache in the same order."""
        from dkv.lab.study.accuracy_plot import Panel, Point, draw, percent

        bases = [pool(records, base) for _, base, _ in _SHOWN.values()]
        pools = [pool(records, policy) for policy, _, _ in _SHOWN.values()]
        both = {"no cache, same order": bases, "variant": pools}
        panels = [
            Panel(
                f"right answers (%), n={len(pools[0].right)}, 95% interval",
                {name: [percent(p.share) for p in some] for name, some in both.items()}, 0, 105,
            ),
            Panel("rows computed (% of no cache)", {"variant": [Point(100 * p.rows_share) for p in pools]}, 0, 105),
            Panel(
                "processor time (% of no cache)",
                {"variant": [_time(p, base) for p, base in zip(pools, bases, strict=True)]}, 0,
            ),
        ]  # fmt: skip
        return draw("The variants of dKV-Cache", "", list(_SHOWN), panels, joined=False)

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        answers: list[bool | None] = []
        told = []
        for name, (policy, base, margin) in _SHOWN.items():
            one, none = pool(records, policy), pool(records, base)
            difference = one.less(none)
            answers += [kept(difference, margin), one.rows_share < none.rows_share]
            told.append(f"{name}: {difference}, {one.rows_share:.0%} of the rows")
        return Verdict(all_of(answers), f"Against no cache in the same order: {'; '.join(told)}.")


def _time(one: Pool, none: Pool) -> Point | None:
    from dkv.lab.study.accuracy_plot import Point

    return Point(100 * one.cpu_seconds / none.cpu_seconds) if none.cpu_seconds else None
