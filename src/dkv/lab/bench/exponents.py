"""How the whole cost of a generation grows with its length, by cache: fitted over the rows of a benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace

from dkv.lab.bench.fit import Exponent, fit_exponent
from dkv.lab.bench.rows import BenchRow

__all__ = ["Growth", "growths"]


@dataclass(frozen=True)
class Growth:
    """cost ~ length ** exponent, of one cache. along: "gen" (with as many steps) or "prompt", the length that varies;
    fixed: the other one; time: of the processor seconds, None where nothing was timed; work: of the operations, which
    have no noise."""

    cache: str
    dtype: str
    batch: int
    along: str
    fixed: int
    time: Exponent | None
    work: Exponent


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
        (growth for growth in found if growth is not None),
        key=lambda g: (g.along != "gen", g.dtype, g.batch, g.fixed),
    )


def _growth(along: str, line: list[BenchRow]) -> Growth | None:
    """None of one length."""
    lengths = [row.cell.gen if along == "gen" else row.cell.prompt for row in line]
    work = fit_exponent(lengths, [row.result.flops for row in line])
    if work is None:
        return None
    cell = line[0].cell
    timed = all(row.result.cpu_seconds for row in line)
    costs = [statistics.median(row.result.cpu_seconds) for row in line] if timed else None
    return Growth(
        cache=cell.cache,
        dtype=cell.numbers,
        batch=cell.batch,
        along=along,
        fixed=cell.prompt if along == "gen" else cell.gen,
        time=None if costs is None else fit_exponent(lengths, costs),
        work=work,
    )
