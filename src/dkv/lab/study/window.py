"""Do the neighbours that dkv-greedy computes pay?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dkv.lab.study.accuracy import Accuracy, Policy, pool
from dkv.lab.study.base import Record, Verdict
from dkv.lab.study.verdicts import gained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Window"]

_WINDOWS, _REFRESHES = (0, 2, 4, 8), (2, 8)


def _policy(window: int, refresh: int, decoder: str | None) -> Policy:
    return Policy(f"dkv-greedy:refresh={refresh},window={window}", decoder)


class Window(Accuracy):
    """Rule: random order, refresh 2, window 4 against window 0. Held if the paired interval lies above 0; not if it
    says that less than 2 points were gained. The sentence gives the same in the model's own order at refresh 8."""

    name: ClassVar[str] = "window"
    claim: ClassVar[str] = (
        "A window of 4 neighbours makes dKV-Cache-Greedy more accurate (arXiv 2505.15781, table 1, LLaDA-8B-Instruct, "
        "random order, refresh 2: MMLU 45.77 to 47.70, GSM8K 67.93 to 68.23, Math500 26.0 to 27.0)."
    )

    def policies(self, quick: bool) -> Sequence[Policy]:
        """Windows in both orders at both intervals; quick: 0 and 4, random at refresh 2 and own at 8."""
        if quick:
            return [_policy(w, r, d) for r, d in ((2, "random"), (8, None)) for w in (0, 4)]
        return [_policy(w, r, d) for d in ("random", None) for r in _REFRESHES for w in _WINDOWS]

    def figure(self, records: Sequence[Record]) -> Figure:
        """A line for each order and refresh interval over the window."""
        from dkv.lab.study.accuracy_plot import accuracy_and_rows

        known = {(record.cell["cache"], record.cell["decoder"]) for record in records}

        def has(window: int, refresh: int, decoder: str | None) -> bool:
            policy = _policy(window, refresh, decoder)
            return (policy.cache, policy.decoder) in known

        lines = [(r, d) for d in ("random", None) for r in _REFRESHES if has(0, r, d)]
        windows = [w for w in _WINDOWS if has(w, *lines[0])]
        series = {
            f"{d or 'own'} order, refresh {r}": [pool(records, _policy(w, r, d)) for w in windows] for r, d in lines
        }
        return accuracy_and_rows(
            "dkv-greedy: the window", "window (masked neighbours)", list(map(str, windows)), series
        )

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        random, own = (
            pool(records, _policy(4, r, d)).less(pool(records, _policy(0, r, d))) for r, d in ((2, "random"), (8, None))
        )
        sentence = f"Window 4 against 0, random order, refresh 2: {random}; the model's own order, refresh 8: {own}."
        return Verdict(gained(random), sentence)
