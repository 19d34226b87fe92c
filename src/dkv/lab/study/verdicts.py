"""Rules from paired differences to verdicts. Nothing here decides from a bare difference: only an interval does.

Three answers: True (held), False (did not hold), None (too few examples to tell).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dkv.lab.eval.statistics import Difference

__all__ = ["MARGIN", "Mean", "all_of", "gained", "kept"]

MARGIN = 0.02
"""Two points: what counts as no loss, and as no gain, unless a study says otherwise."""

_FEW = 20
_Z = 1.959963984540054  # the normal distribution's 97.5% point


@dataclass(frozen=True)
class Mean:
    """The mean of paired differences that are no matter of right and wrong, with the normal 95% interval; of fewer than
    20 values the interval is unknown, (-inf, inf)."""

    value: float
    count: int
    interval: tuple[float, float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Of at least one value. Raises statistics.StatisticsError for none."""
        middle = statistics.fmean(values)
        if len(values) < _FEW:
            return cls(middle, len(values), (-math.inf, math.inf))
        half = _Z * statistics.stdev(values) / math.sqrt(len(values))
        return cls(middle, len(values), (middle - half, middle + half))

    def __str__(self) -> str:
        low, high = self.interval
        if math.isinf(low):
            return f"{self.value:+.3f} (n={self.count}: too few for an interval)"
        return f"{self.value:+.3f} [{low:+.3f}, {high:+.3f}], n={self.count}"


def kept(difference: Difference | Mean, margin: float = MARGIN) -> bool | None:
    """Whether no more than the margin was lost: True if the interval's lower bound says so, False if its upper bound
    says that more was."""
    low, high = difference.interval
    return True if low >= -margin else False if high < -margin else None


def gained(difference: Difference | Mean, margin: float = MARGIN) -> bool | None:
    """Whether anything was gained: True if the interval lies above 0, False if all of it lies below the margin."""
    low, high = difference.interval
    return True if low > 0 else False if high < margin else None


def all_of(answers: Iterable[bool | None]) -> bool | None:
    """Whether all hold: False as soon as one does not, else None if one cannot be told. No correction for several is
    needed where all must hold."""
    found = list(answers)
    return False if False in found else None if None in found else True
