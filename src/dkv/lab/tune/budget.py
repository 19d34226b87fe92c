"""What may be lost, and what a number of examples can tell about it.

Bounds are one-sided, at 95% unless told otherwise. It knows counts and nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from dkv.errors import SettingError

__all__ = ["ALPHA", "Budget", "Loss", "upper_share"]

ALPHA = 0.05
_MOST = 10_000_000  # examples: beyond it a budget counts as out of reach

Kind = Literal["changed", "lost"]


@dataclass(frozen=True)
class Loss:
    """Of `count` paired examples: how many answers are another text (changed), and how many were right without and are
    wrong with the setting (lost), or the other way round (gained)."""

    count: int
    changed: int
    lost: int
    gained: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[tuple[str, bool], tuple[str, bool]]]) -> Loss:
        """From pairs of (text, right): of the setting, and of the reference."""
        return cls(
            count=len(pairs),
            changed=sum(mine[0] != its[0] for mine, its in pairs),
            lost=sum(its[1] and not mine[1] for mine, its in pairs),
            gained=sum(mine[1] and not its[1] for mine, its in pairs),
        )

    def scaled(self, count: int) -> Loss:
        """The same shares of another number of examples."""
        changed, lost, gained = (round(n * count / self.count) for n in (self.changed, self.lost, self.gained))
        return Loss(count, changed, lost, gained)


@dataclass(frozen=True)
class Budget:
    """kind "changed": the share of answers that may become another text; "lost": the share of accuracy that may go.
    limit: the share. Raises SettingError."""

    kind: Kind
    limit: float

    def __post_init__(self) -> None:
        if not 0 < self.limit < 1:
            raise SettingError(f"{self.kind}={100 * self.limit:g} must lie between 0 and 100 percent, both left out")

    def __str__(self) -> str:
        if self.kind == "changed":
            return f"at most {100 * self.limit:g}% of answers may change"
        return f"at most {100 * self.limit:g} points of accuracy may be lost"

    def estimate(self, loss: Loss) -> float:
        """What was lost, as a share."""
        return (loss.changed if self.kind == "changed" else loss.lost - loss.gained) / loss.count

    def upper(self, loss: Loss, alpha: float = ALPHA) -> float:
        """The most that may be lost in truth, at confidence 1 - alpha."""
        if self.kind == "changed":
            return upper_share(loss.changed, loss.count, alpha)
        return _upper_difference(loss, alpha)

    def lower(self, loss: Loss, alpha: float = ALPHA) -> float:
        """The least that is lost in truth, at confidence 1 - alpha."""
        if self.kind == "changed":
            return 1 - upper_share(loss.count - loss.changed, loss.count, alpha)
        return -_upper_difference(Loss(loss.count, loss.changed, loss.gained, loss.lost), alpha)

    def needed(self, loss: Loss, alpha: float = ALPHA) -> int | None:
        """Examples that would certify the budget if they came out as these did, None where none would."""
        if self.estimate(loss) >= self.limit:
            return None
        few, many = 0, 1
        while self.upper(loss.scaled(many), alpha) > self.limit:
            few, many = many, 2 * many
            if many > _MOST:
                return None
        while many - few > 1:
            middle = (few + many) // 2
            few, many = (few, middle) if self.upper(loss.scaled(middle), alpha) <= self.limit else (middle, many)
        return many


def upper_share(hits: int, count: int, alpha: float = ALPHA) -> float:
    """Clopper and Pearson's upper bound of a share: the one at which `hits` or fewer have probability alpha."""
    if hits >= count:
        return 1.0
    low, high = hits / count, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(hits, count, middle) > alpha else (low, middle)
    return high


def _at_most(hits: int, count: int, share: float) -> float:
    """The probability of `hits` or fewer of `count`."""
    logs = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        + k * math.log(share) + (count - k) * math.log1p(-share)
        for k in range(hits + 1)
    ]  # fmt: skip
    return min(1.0, math.fsum(math.exp(value) for value in logs))


def _upper_difference(loss: Loss, alpha: float) -> float:
    """The upper bound of (lost - gained) / count for paired outcomes: Tango's score bound.

    Source: T. Tango, Statistics in Medicine 17 (1998) 891-908. It holds its level with few discordant pairs, or none.
    """
    n, b, c = loss.count, loss.lost, loss.gained
    z = NormalDist().inv_cdf(1 - alpha)
    low, high = (b - c) / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(n, b, c, middle) > -z else (low, middle)
    return high


def _score(n: int, b: int, c: int, difference: float) -> float:
    """Tango's statistic of a true difference (b's share less c's)."""
    first, second, third = 2 * n, -b - c + (2 * n - b + c) * difference, -c * difference * (1 - difference)
    q = (math.sqrt(max(0.0, second * second - 4 * first * third)) - second) / (2 * first)
    spread = n * (2 * q + difference * (1 - difference))
    return (b - c - n * difference) / math.sqrt(spread) if spread > 0 else 0.0
