"""Does the same number of rows at every step beat the published saw of few rows and all of them?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from dkv.lab.common.charts import Chart, Panel, Series
from dkv.lab.eval.statistics import Difference, Share
from dkv.lab.eval.suites import EMBEDDED
from dkv.lab.study.accuracy import NONE, Accuracy, Policy, Pool, percent, pool, pools_of
from dkv.lab.study.base import Record, Verdict
from dkv.lab.study.verdicts import all_of, gained, kept

__all__ = ["FillRows"]

_CHOICES = ("change", "blend", "near", "age")
_ROWS = (8, 16, 24, 40, 64, 96)
_RIVALS = {
    "dkv-decode": tuple(Policy(f"dkv-decode:refresh={n}") for n in (2, 4, 8, 16)),
    "dllm-cache": tuple(Policy(f"dllm-cache:kp=50,kr={kr},rho={rho}") for kr in (2, 4, 7) for rho in (0.25, 0.5)),
}
_OTHERS = {
    "dkv-greedy": (Policy("dkv-greedy:refresh=8,window=4"),),
    "dkv-pd": (Policy("dkv-pd:refresh=4"),),
    "dkv-prefill": (Policy("dkv-prefill"),),
}


def _fill(choose: str, few: bool = False) -> tuple[Policy, ...]:
    return tuple(Policy(f"dkv-fill:rows={n},choose={choose}") for n in (_ROWS[1:3] if few else _ROWS))


class FillRows(Accuracy):
    """Rule: each setting of dkv-decode and dllm-cache beside the dkv-fill of the first choice that takes no more
    processor time and agrees most often with no cache. Held if its agreement is nowhere lower (paired interval above
    -2 points), and higher than each rival's best (interval above 0) or as high in less time; not, if refuted anywhere.
    """

    name: ClassVar[str] = "fill"
    tasks: ClassVar[Sequence[str]] = EMBEDDED
    claim: ClassVar[str] = (
        "Ours: at equal seconds dkv-fill, whose every step computes the same rows, agrees with no cache more often "
        "than dkv-decode and dllm-cache at their best settings, or at equal agreement it is faster."
    )

    def policies(self, quick: bool) -> Sequence[Policy]:
        """No cache, the rivals, the others, and dkv-fill by rows and choice; quick: fewer of each."""
        if quick:
            rivals = [settings[i] for settings in _RIVALS.values() for i in (1, 2)]
            return [NONE, *rivals, *_fill(_CHOICES[0], few=True)]
        known = [p for settings in (*_RIVALS.values(), *_OTHERS.values()) for p in settings]
        return [NONE, *known, *_fill(_CHOICES[0]), *(p for other in _CHOICES[1:] for p in _fill(other, few=True))]

    def chart(self, records: Sequence[Record]) -> Chart:
        """Agreement, and right answers, over processor time: a line for each cache and choice."""
        known = pools_of(records)
        none = known[NONE]
        families = {**_RIVALS, **_OTHERS, **{f"dkv-fill, {choose}": _fill(choose) for choose in _CHOICES}}
        lines = {name: [known[p] for p in settings if p in known] for name, settings in families.items()}

        def panel(y: str, value: Callable[[Pool], Share], levels: dict[float, str]) -> Panel:
            series = [_over_time(name, pools, none, value) for name, pools in lines.items() if pools]
            return Panel("processor time (% of no cache)", y, series=series, log_x=(5, 10, 20, 50, 100), levels=levels)

        panels = [
            panel("answers that are no cache's (%)", lambda p: p.agreement(none), {}),
            panel("right answers (%)", lambda p: p.share, {100 * none.share.value: "no cache"}),
        ]
        title = f"dkv-fill beside the published caches, n={len(none.right)}, 95% interval"
        return Chart(title, panels, 2, size=(6.0, 4.9))

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        known, none = pools_of(records), pool(records, NONE)
        own = [known[policy] for policy in _fill(_CHOICES[0]) if policy in known]
        answers, told = list[bool | None](), list[str]()
        for settings in _RIVALS.values():
            rivals = {policy: known[policy] for policy in settings if policy in known}
            best = max(rivals, key=lambda policy: rivals[policy].agreement(none).right)
            for policy, rival in rivals.items():
                mine = _beside(own, rival, none)
                if mine is None:
                    answers.append(None)
                    continue
                difference = _agreement(mine, rival, none)
                answers.append(kept(difference))
                if policy == best:
                    faster = mine.cpu_seconds < 0.9 * rival.cpu_seconds and kept(difference)
                    answers.append(True if faster else gained(difference))
                    share = mine.cpu_seconds / rival.cpu_seconds
                    told.append(f"beside {policy.cache}, in {share:.0%} of its time: {difference}")
        return Verdict(all_of(answers), f"Agreement with no cache, {'; '.join(told)}.")


def _beside(own: Sequence[Pool], rival: Pool, none: Pool) -> Pool | None:
    """The one of its own that agrees most often in no more processor time."""
    quick = [mine for mine in own if mine.cpu_seconds <= rival.cpu_seconds]
    return max(quick, key=lambda mine: mine.agreement(none).right, default=None)


def _agreement(mine: Pool, rival: Pool, none: Pool) -> Difference:
    """How much more often one agrees with no cache than the other, on pairs."""
    flags = [[a == b for a, b in zip(one.said, none.said, strict=True)] for one in (mine, rival)]
    return Difference.of(*flags)


def _over_time(name: str, pools: Sequence[Pool], none: Pool, value: Callable[[Pool], Share]) -> Series:
    """Shares of one family's settings in the order of their time, which is in percent of no cache's."""
    some = sorted(pools, key=lambda p: p.cpu_seconds)
    times = [100 * p.cpu_seconds / none.cpu_seconds if none.cpu_seconds else 100 for p in some]
    shares = [value(p) for p in some]
    return Series(name, [100 * s.value for s in shares], times, [percent(s.interval) for s in shares])
