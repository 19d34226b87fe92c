"""What a cache and a parallel decoder gain together, and what each has to do with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from dkv.lab.common.charts import Chart
from dkv.lab.eval.suites import EMBEDDED
from dkv.lab.study.accuracy import NONE, Accuracy, Policy, Pool, pool, pools_of, share_panel, value_panel
from dkv.lab.study.base import Record, Verdict
from dkv.lab.study.verdicts import all_of, kept

__all__ = ["Parallel"]

_CACHES = ("none", "dkv-decode:refresh=4", "dkv-fill:rows=24", "dkv-fill:rows=40", "fast-dual")
_DECODERS = (
    None, "threshold:tau=0.999", "threshold:tau=0.99", "threshold:tau=0.95", "threshold:tau=0.9",
    "entropy-bound:gamma=0.1", "entropy-bound:gamma=0.01",
)  # fmt: skip
_BOTH = Policy("dkv-fill:rows=40", "threshold:tau=0.999")
"""Chosen on other examples than those that a study asks."""
_TIMES = 5.0


class Parallel(Accuracy):
    """Rule: dkv-fill with 40 rows and threshold 0.999 against no cache and one token a step. Held if it writes at least
    5 times as many tokens in a second of processor time and loses at most 2 points (the paired interval's lower bound
    says so); not, if either is refuted."""

    name: ClassVar[str] = "parallel"
    tasks: ClassVar[Sequence[str]] = EMBEDDED
    claim: ClassVar[str] = (
        "Ours, of a kind with Fast-dLLM's (arXiv 2505.22618, table 1, LLaDA-8B-Instruct, GSM8K, 256 tokens: a block "
        "cache and threshold 0.9 together 8.1x, 79.3 to 78.5): with a cache and threshold decoding at least 5 times "
        "the tokens of no cache and one token a step, at equal accuracy."
    )

    def policies(self, quick: bool) -> Sequence[Policy]:
        """Every cache with every decoder; quick: what the rule needs."""
        if quick:
            return [NONE, Policy(_BOTH.cache), Policy("none", _BOTH.decoder), _BOTH]
        return [Policy(cache, decoder) for decoder in _DECODERS for cache in _CACHES]

    def chart(self, records: Sequence[Record]) -> Chart:
        """Right answers and tokens a second, the caches side by side over the decoders."""
        known = pools_of(records)
        decoders = list(dict.fromkeys(policy.decoder for policy in known))
        names = ["one token a step" if decoder is None else decoder for decoder in decoders]
        pools = {
            cache: [known.get(Policy(cache, d)) for d in decoders] for cache in dict.fromkeys(p.cache for p in known)
        }
        base = _rate(known[NONE])
        speeds = {cache: [None if p is None else _rate(p) / base for p in some] for cache, some in pools.items()}
        label = "tokens a CPU second (times no cache)"
        panels = [share_panel("", names, pools, ""), value_panel("", label, names, speeds, "")]
        return Chart("Caches with parallel decoders", panels, 2)

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class, with what each part does alone."""
        none, both = pool(records, NONE), pool(records, _BOTH)
        times, difference = _rate(both) / _rate(none), both.less(none)
        parts = {"the cache": Policy(_BOTH.cache), "the decoder": Policy("none", _BOTH.decoder)}
        alone = ", ".join(f"{name} alone {_rate(pool(records, p)) / _rate(none):.1f}x" for name, p in parts.items())
        sentence = f"{_BOTH.cache} with {_BOTH.decoder}: {times:.1f}x the tokens a second ({alone}), {difference}."
        return Verdict(all_of((times >= _TIMES, kept(difference))), sentence)


def _rate(p: Pool) -> float:
    """Tokens a second of processor time."""
    return p.tokens / p.cpu_seconds if p.cpu_seconds else 0.0
