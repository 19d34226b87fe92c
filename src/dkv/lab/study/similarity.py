"""Which measure of drift picks the right rows: cosine or distance?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dkv.lab.study.accuracy import NONE, Accuracy, Policy, pool
from dkv.lab.study.base import Record, Verdict
from dkv.lab.study.verdicts import gained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Similarity"]

_KINDS, _SHARES = ("cosine", "l2"), ("0.1", "0.25")


def _policy(rho: str, kind: str) -> Policy:
    return Policy(f"dllm-cache:rho={rho},similarity={kind}")


class Similarity(Accuracy):
    """Rule: cosine against l2 at rho 0.25. Held if the paired interval lies above 0; not if it says that less than 2
    points were gained."""

    name: ClassVar[str] = "similarity"
    claim: ClassVar[str] = (
        "Cosine finds the rows that drifted better than distance does (dLLM-Cache, arXiv 2506.06295, LLaDA, GSM8K: "
        "78.54 with cosine, 55.95 with l2)."
    )

    def policies(self, quick: bool) -> Sequence[Policy]:
        """No cache, and both measures at both shares."""
        return [NONE, *(_policy(share, kind) for share in _SHARES for kind in _KINDS)]

    def figure(self, records: Sequence[Record]) -> Figure:
        """Both measures over the share, and no cache."""
        from dkv.lab.study.accuracy_plot import accuracy_and_rows

        series = {kind: [pool(records, _policy(share, kind)) for share in _SHARES] for kind in _KINDS}
        none = {"no cache": [pool(records, NONE) for _ in _SHARES]}
        return accuracy_and_rows("dllm-cache: cosine and l2", "rho", _SHARES, none | series, joined=False)

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        tenth, quarter = (
            pool(records, _policy(share, "cosine")).less(pool(records, _policy(share, "l2"))) for share in _SHARES
        )
        return Verdict(gained(quarter), f"Cosine against l2 at rho 0.25: {quarter}; at rho 0.1: {tenth}.")
