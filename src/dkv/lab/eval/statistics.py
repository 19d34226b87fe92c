"""Intervals and a test for right and wrong answers: of one setting, and of two settings on the same examples.

It knows counts and nothing of models. All intervals are at 95%.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Difference", "Share", "wilson"]

_Z = 1.959963984540054  # the normal distribution's 97.5% point


@dataclass(frozen=True)
class Share:
    """`right` answers of `count`; printed with both and the interval. Raises ValueError for no answers at all."""

    right: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.count or self.count < 1:
            raise ValueError(f"{self.right} of {self.count} is no share")

    @property
    def value(self) -> float:
        """The share."""
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's."""
        return wilson(self.right, self.count)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.right}/{self.count} = {self.value:.1%} [{low:.1%}, {high:.1%}]"


@dataclass(frozen=True)
class Difference:
    """How one setting's accuracy differs from another's on the same examples. both, gained, lost, neither: examples
    that both answered rightly, only this one, only the other one, neither."""

    both: int
    gained: int
    lost: int
    neither: int

    @classmethod
    def of(cls, this: Sequence[bool], other: Sequence[bool]) -> Difference:
        """Count the pairs. Raises ValueError where there are none, or the lengths differ."""
        pairs = list(zip(this, other, strict=True))
        if not pairs:
            raise ValueError("no pairs to compare")
        order = ((True, True), (True, False), (False, True), (False, False))
        return cls(*(sum(pair == kind for pair in pairs) for kind in order))

    @property
    def count(self) -> int:
        """The number of pairs."""
        return self.both + self.gained + self.lost + self.neither

    @property
    def value(self) -> float:
        """This accuracy less the other."""
        return (self.gained - self.lost) / self.count

    @property
    def p(self) -> float:
        """McNemar's test, exact and two-sided: as many or more of the discordant pairs fall on one side by chance."""
        discordant, fewer = self.gained + self.lost, min(self.gained, self.lost)
        tail = sum(math.comb(discordant, k) for k in range(fewer + 1))
        return min(1.0, 2 * tail / (1 << discordant))

    @property
    def interval(self) -> tuple[float, float]:
        """Newcombe's square-and-add interval for paired proportions, from Wilson's of each and their correlation.

        Source: R. G. Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10. Unlike the usual normal one it
        stays within [-1, 1] and does not shrink to a point where no pair is discordant.
        """
        right, other = self.both + self.gained, self.both + self.lost
        (low, high), (other_low, other_high) = wilson(right, self.count), wilson(other, self.count)
        mine, its = right / self.count, other / self.count
        down = _added(mine - low, other_high - its, self._correlation)
        up = _added(high - mine, its - other_low, self._correlation)
        return max(-1.0, self.value - down), min(1.0, self.value + up)

    @property
    def _correlation(self) -> float:
        """phi of the two by two table, with the continuity correction of the source where it is positive."""
        a, b, c, d = self.both, self.gained, self.lost, self.neither
        margins = (a + b) * (c + d) * (a + c) * (b + d)
        if not margins:
            return 0.0
        cross = float(a * d - b * c)
        return (max(cross - self.count / 2, 0.0) if cross > 0 else cross) / math.sqrt(margins)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points, n={self.count}, p={self.p:.2g}"


def wilson(right: int, count: int) -> tuple[float, float]:
    """The score interval of a proportion. Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212."""
    share, n = right / count, _Z * _Z / count
    middle, half = share + n / 2, _Z * math.sqrt(share * (1 - share) / count + n / (4 * count))
    return max(0.0, (middle - half) / (1 + n)), min(1.0, (middle + half) / (1 + n))


def _added(one: float, two: float, correlation: float) -> float:
    """The length of the sum of two correlated errors."""
    return math.sqrt(max(0.0, one * one - 2 * correlation * one * two + two * two))
