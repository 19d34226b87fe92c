"""What does a random decode order cost, and does dkv-greedy work in it?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dkv.lab.study.accuracy import Accuracy, Policy, pool
from dkv.lab.study.base import Record, Verdict
from dkv.lab.study.verdicts import all_of, gained, kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Order"]

_CACHES = ("none", "dkv-decode:refresh=8", "dkv-greedy:refresh=2,window=4")
_ORDERS = {"the model's own order": None, "random order": "random"}
_LOSS = 0.05
"""Five points: the published losses of greedy with a window are 4 on MMLU and GSM8K, and 4.5 on HumanEval."""


class Order(Accuracy):
    """Rule, on pairs: held if without a cache the own order beats the random one (interval above 0) and dkv-greedy in
    random order loses at most 5 points to no cache in random order (lower bound at least -5). Not, if an interval says
    the contrary of either."""

    name: ClassVar[str] = "order"
    claim: ClassVar[str] = (
        "A random order costs accuracy by itself, and dKV-Cache-Greedy, which needs to know the order, loses little "
        "more in it (arXiv 2505.15781, table 1, LLaDA-8B-Instruct, GSM8K: 77.56 by confidence, 72.25 at random, 68.23 "
        "at random with greedy)."
    )

    def policies(self, quick: bool) -> Sequence[Policy]:
        """Three caches in both orders."""
        return [Policy(cache, decoder) for decoder in _ORDERS.values() for cache in _CACHES]

    def figure(self, records: Sequence[Record]) -> Figure:
        """Both orders for each cache."""
        from dkv.lab.study.accuracy_plot import accuracy_and_rows

        series = {name: [pool(records, Policy(c, decoder)) for c in _CACHES] for name, decoder in _ORDERS.items()}
        names = [cache.partition(":")[0] for cache in _CACHES]
        return accuracy_and_rows("The decode order", "cache", names, series, joined=False)

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        none, _, greedy = (pool(records, Policy(cache, "random")) for cache in _CACHES)
        worth, loss = pool(records, Policy("none")).less(none), greedy.less(none)
        sentence = (
            f"Without a cache the own order is worth {worth}; in random order dkv-greedy against no cache: {loss}."
        )
        return Verdict(all_of((gained(worth), kept(loss, _LOSS))), sentence)
