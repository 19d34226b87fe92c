"""How a cost grows with a length: as which power, fitted, and that of whole generations by cache."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dkv.lab.bench.rows import BenchRow

__all__ = ["Exponent", "Growth", "fit_exponent", "growths"]


@dataclass(frozen=True)
class Exponent:
    """cost ~ length ** value."""

    value: float
    error: float | None  # standard error; None with two points, through which a line always goes
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


@dataclass(frozen=True)
class Growth:
    """cost ~ length ** exponent, of one cache."""

    cache: str
    dtype: str
    batch: int
    along: str  # the length that varies: "gen" (with as many steps) or "prompt"
    fixed: int  # the other one
    time: Exponent | None  # of the processor seconds; None where nothing was timed
    work: Exponent  # of the operations, which have no noise


def growths(rows: Iterable[BenchRow]) -> list[Growth]:
    """Of all rows that filled their canvas (a text that ended early costs less for another reason)."""
    lines: dict[tuple[str, str], list[BenchRow]] = {}
    for row in rows:
        if row.result.forwards == row.cell.steps:
            for along in ("gen", "prompt"):
                rest = replace(row.cell, gen=0, steps=0, block=0) if along == "gen" else replace(row.cell, prompt=0)
                lines.setdefault((along, rest.key), []).append(row)
    found = [_growth(along, line) for (along, _), line in lines.items()]
    return sorted(
        (growth for growth in found if growth is not None), key=lambda g: (g.along != "gen", g.dtype, g.batch, g.fixed)
    )


def _growth(along: str, line: list[BenchRow]) -> Growth | None:
    """None of one length."""
    lengths = [row.cell.gen if along == "gen" else row.cell.prompt for row in line]
    work = fit_exponent(lengths, [row.result.flops for row in line])
    if work is None:
        return None
    cell, costs = line[0].cell, [row.result.cpu_seconds for row in line]
    time = fit_exponent(lengths, list(map(statistics.median, costs))) if all(costs) else None
    fixed = cell.prompt if along == "gen" else cell.gen
    return Growth(cell.cache, cell.numbers, cell.batch, along, fixed, time, work)
