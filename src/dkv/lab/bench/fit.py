"""The exponent of a cost that grows as a power of a length, fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Exponent", "fit_exponent"]


@dataclass(frozen=True)
class Exponent:
    """cost ~ length ** value. error: standard error of the value; None with two points, through which a line always
    goes."""

    value: float
    error: float | None
    points: int


def fit_exponent(lengths: Sequence[float], costs: Sequence[float]) -> Exponent | None:
    """Least squares of log cost on log length; None with fewer than two different lengths."""
    if len(set(lengths)) < 2 or min(costs) <= 0:
        return None
    x, y = [math.log(v) for v in lengths], [math.log(v) for v in costs]
    count = len(x)
    middle, height = sum(x) / count, sum(y) / count
    spread = sum((a - middle) ** 2 for a in x)
    slope = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True)) / spread
    left = sum((b - height - slope * (a - middle)) ** 2 for a, b in zip(x, y, strict=True))
    error = math.sqrt(left / (count - 2) / spread) if count > 2 else None
    return Exponent(slope, error, count)
