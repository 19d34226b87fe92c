"""The columns of a benchmark's tables, by name, as text: what the shell and the page show alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dkv.lab.bench.exponents import Exponent, Growth
from dkv.lab.bench.rows import BenchRow, RepeatSpread
from dkv.lab.common.charts import digits_of, with_unit

__all__ = ["COLUMNS", "Column", "growth_lines", "shown"]

BLANK = ""


@dataclass(frozen=True)
class Column:
    """What a table shows of rows."""

    title: str
    meaning: str  # one line
    text: Callable[[BenchRow], str]  # of a row, blank where it was not measured


def shown(spread: RepeatSpread | None, unit: str = "", prefixed: bool = False) -> str:
    """The median, and by how much the farther of the lowest and the highest differs from it."""
    if spread is None:
        return BLANK
    middle = with_unit(spread.median, unit) if prefixed else f"{digits_of(spread.median, 3)}{unit}"
    if spread.low == spread.high or not spread.median:
        return middle
    return f"{middle} ±{max(spread.median - spread.low, spread.high - spread.median) / abs(spread.median):.0%}"


def _bytes(value: int | None) -> str:
    return BLANK if value is None else with_unit(value, "B")


COLUMNS = (
    Column("cache", "the policy; autoregressive: the same weights, causal, token by token", lambda r: r.cell.cache),
    Column("prompt", "tokens", lambda r: str(r.cell.prompt)),
    Column("gen", "positions of the response, and denoising steps", lambda r: str(r.cell.gen)),
    Column("batch", "sequences at a time", lambda r: str(r.cell.batch)),
    Column("dtype", "of weights, activations and cache", lambda r: r.cell.numbers),
    Column("tokens/s", "generated up to the end-of-text, over wall-clock time", lambda r: shown(r.tokens_per_second)),
    Column("s/step", "wall-clock time of a forward", lambda r: shown(r.seconds_per_step, "s", True)),
    Column("CPU s/step", "processor time of a forward, all threads", lambda r: shown(r.cpu_per_step, "s", True)),
    Column("speed-up", "wall-clock time of no cache over its own", lambda r: shown(r.speedup, "x")),
    Column("CPU speed-up", "the same of processor time", lambda r: shown(r.cpu_speedup, "x")),
    Column("FLOPs saved", "share of the operations of no cache that it does without", lambda r: f"{r.flops_share:.1%}"),
    Column("forwards", "of the whole batch", lambda r: str(r.result.forwards)),
    Column(
        "rows", "through the MLP, and their share of all", lambda r: f"{r.result.rows_computed:.0f} ({_share(r):.1%})"
    ),
    Column(
        "FLOPs", "matrix products of all forwards, attention and head included", lambda r: with_unit(r.result.flops, "")
    ),
    Column("agreement", "tokens equal to those of no cache", lambda r: _percent(r.result.agreement)),
    Column("roofline", "the time that the machine's rates allow", lambda r: with_unit(r.result.bound_seconds, "s")),
    Column("of roofline", "that over wall-clock time: 100% is as fast as can be", lambda r: shown(r.attained, "%")),
    Column("of AR", "time per position over the autoregressive run's per token", lambda r: shown(r.gap, "x")),
    Column(
        "J/token", "energy of the machine; blank where it reports none", lambda r: shown(r.joules_per_token, "J", True)
    ),
    Column("cache memory", "keys, values and features", lambda r: _bytes(r.result.cache_bytes)),
    Column("peak memory", "held at the highest, beside the weights", lambda r: _bytes(r.result.peak_bytes)),
    Column("weights", "of the layers and the head", lambda r: _bytes(r.result.weight_bytes)),
)
"""All of them, in order."""


def _share(row: BenchRow) -> float:
    return row.result.rows_computed / row.result.rows_total if row.result.rows_total else 0.0


def _percent(value: float | None) -> str:
    return BLANK if value is None else f"{value:.1%}"


def growth_lines(found: Sequence[Growth]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Titles and lines of the table of exponents."""
    titles = ("cache", "dtype", "batch", "cost ~", "at", "of CPU time", "of FLOPs")
    lines: list[tuple[str, ...]] = []
    for g in found:
        other = "prompt" if g.along == "gen" else "gen"
        fitted = (_exponent(g.time), _exponent(g.work))
        lines.append((g.cache, g.dtype, str(g.batch), f"{g.along}^exponent", f"{other} {g.fixed}", *fitted))
    return titles, lines


def _exponent(found: Exponent | None) -> str:
    if found is None:
        return BLANK
    return f"{found.value:.2f}" if found.error is None else f"{found.value:.2f} ± {found.error:.2f}"
