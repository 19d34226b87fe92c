"""Rules from intervals at 95% to verdicts; nothing here decides from a bare figure.

Three answers: True (held), False (did not hold), None (too few examples to tell). Figures over a few prompts have their
interval by the bootstrap over prompts (B. Efron, The Annals of Statistics 7 (1979) 1-26; the percentile interval).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dkv.lab.eval.statistics import Difference

__all__ = ["MARGIN", "Interval", "Mean", "all_of", "at_least", "at_most", "bootstrap", "gained", "kept"]

MARGIN = 0.02
"""Two points: what counts as no loss, and as no gain, unless a study says otherwise."""

Interval = tuple[float, float, float]
"""A figure, and the lower and upper end of its interval."""

_DRAWS = 2000
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


def at_most(interval: Interval, bound: float) -> bool | None:
    """Whether the figure is no larger than the bound."""
    _, low, high = interval
    return True if high <= bound else False if low > bound else None


def at_least(interval: Interval, bound: float) -> bool | None:
    """Whether the figure is no smaller than the bound."""
    _, low, high = interval
    return True if low >= bound else False if high < bound else None


def bootstrap(values: Tensor, statistic: Callable[[Tensor], Tensor]) -> Interval:
    """statistic: of prompts' values [D, N, ...] to [D], on D samples at once; values [N, ...]: one entry a prompt.

    Seeded, so that one file always gives one verdict. With one prompt the interval is everything: (value, -inf, inf).
    """
    count = len(values)
    value = float(statistic(values[None])[0])
    if count < 2:
        return value, -torch.inf, torch.inf
    draw = torch.Generator().manual_seed(0)
    samples = statistic(values[torch.randint(count, (_DRAWS, count), generator=draw)])
    low, high = samples.double().nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return value, low, high
