"""What share of the response must dllm-cache recompute between refreshes?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dkv.lab.study.accuracy import NONE, Accuracy, Policy, pool
from dkv.lab.study.base import Record, Verdict
from dkv.lab.study.verdicts import all_of, gained, kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Rho"]


def _policy(rho: str) -> Policy:
    return Policy(f"dllm-cache:rho={rho}")


class Rho(Accuracy):
    """Rule, on pairs: held if rho 0.25 beats rho 0 (interval above 0) and loses at most 2 points to rho 1 (lower bound
    at least -2). Not, if an interval says the contrary of either."""

    name: ClassVar[str] = "rho"
    claim: ClassVar[str] = (
        "Recomputing about a quarter of the response, the rows whose values drifted most, is enough (dLLM-Cache, arXiv "
        "2506.06295: rho = 0.25 in all published settings; LLaDA, GSM8K, kp 50, kr 7: 78.54)."
    )
    shares: ClassVar[tuple[str, ...]] = ("0", "0.1", "0.25", "0.5", "0.75", "1")

    def policies(self, quick: bool) -> Sequence[Policy]:
        """No cache, and shares from 0 to 1; quick: 0, 0.1, 0.25, 0.5 and 1."""
        return [NONE, *(_policy(share) for share in self.shares if not (quick and share == "0.75"))]

    def figure(self, records: Sequence[Record]) -> Figure:
        """A line over the share, beside no cache."""
        from dkv.lab.study.accuracy_plot import beside_none

        return beside_none("dllm-cache: the share recomputed", "rho", "dllm-cache, kp 50, kr 7", records)

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        quarter = pool(records, _policy("0.25"))
        worth, loss = quarter.less(pool(records, _policy("0"))), quarter.less(pool(records, _policy("1")))
        against = quarter.less(pool(records, NONE))
        sentence = f"rho 0.25 against rho 0: {worth}; against rho 1: {loss}; against no cache: {against}."
        return Verdict(all_of((gained(worth), kept(loss))), sentence)
