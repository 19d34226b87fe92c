"""What a cache and a parallel decoder gain together, and what each has to do with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dkv.lab.eval.suite import EMBEDDED
from dkv.lab.study.accuracy import NONE, Accuracy, Policy, Pool, known_pool, pool
from dkv.lab.study.base import Record, Verdict
from dkv.lab.study.verdicts import all_of, kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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

    def figure(self, records: Sequence[Record]) -> Figure:
        """Right answers and tokens a second, the caches side by side over the decoders."""
        from dkv.lab.study.accuracy_plot import Panel, Point, draw, percent

        policies = list(dict.fromkeys(Policy(r.cell["cache"], r.cell["decoder"]) for r in records))
        decoders, caches = (list(dict.fromkeys(getattr(p, key) for p in policies)) for key in ("decoder", "cache"))
        none = pool(records, NONE)
        pools = {cache: [known_pool(records, Policy(cache, decoder)) for decoder in decoders] for cache in caches}
        right = {cache: [None if p is None else percent(p.share) for p in some] for cache, some in pools.items()}
        speed = {
            cache: [None if p is None else Point(_rate(p) / _rate(none)) for p in some] for cache, some in pools.items()
        }
        panels = [
            Panel(f"right answers (%), n={len(none.right)}, 95% interval", right, 0, 105),
            Panel("tokens a CPU second (times no cache)", speed, 0),
        ]
        names = ["one token a step" if decoder is None else decoder for decoder in decoders]
        return draw("Caches with parallel decoders", "", names, panels, joined=False)

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
