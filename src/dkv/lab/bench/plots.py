"""The plots of a benchmark, as figures; needs matplotlib (the extra `plots`). Figures are objects of their own: no
window, no global state."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from dkv.lab.bench.columns import with_unit
from dkv.lab.bench.exponents import growths
from dkv.lab.bench.grid import AUTOREGRESSIVE, REFERENCE
from dkv.lab.bench.plot_parts import (
    PANEL,
    Looks,
    caches_of,
    draw_line,
    label_bars,
    legend_below,
    looks_of,
    panels_of,
    scale_lengths,
    scale_values,
)
from dkv.lab.bench.rows import BenchRow, RepeatSpread

__all__ = ["Plot", "plots_of", "png"]


@dataclass(frozen=True)
class Plot:
    """name: of its file; caption: what it shows, in a sentence or two."""

    name: str
    caption: str
    figure: Figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=140)
    return out.getvalue()


def plots_of(rows: Sequence[BenchRow]) -> Iterator[Plot]:
    """For each model, dtype and batch: throughput, growth of the cost, what of the FLOPs saved became time, distance
    from the roofline, operations, and memory; those for which there is something to show."""
    looks = looks_of(rows)
    for number, group in enumerate(_grouped(rows)):
        cell = group[0].cell
        where = f"{cell.model}, {cell.numbers}, batch {cell.batch}"
        for name, caption, draw in _KINDS:
            some = [row for row in group if row.result.seconds or name in _UNTIMED]
            if some:
                yield Plot(f"{name}-{number}", f"{where}: {caption}", draw(some, looks, where))


def _grouped(rows: Sequence[BenchRow]) -> list[list[BenchRow]]:
    """By all settings but the lengths and the cache."""
    groups: dict[str, list[BenchRow]] = {}
    for row in rows:
        groups.setdefault(replace(row.cell.point, prompt=0, gen=0, block=0, steps=0).key, []).append(row)
    return list(groups.values())


def _throughput(rows: Sequence[BenchRow], looks: Looks, title: str) -> Figure:
    return _lines(rows, looks, title, lambda r: r.tokens_per_second, "tokens/s (to the end-of-text)", "")


def _flops(rows: Sequence[BenchRow], looks: Looks, title: str) -> Figure:
    return _lines(rows, looks, title, lambda r: _spread([r.result.flops]), "operations (FLOPs)", "")


def _time(rows: Sequence[BenchRow], looks: Looks, title: str) -> Figure:
    return _lines(rows, looks, title, lambda r: _spread(r.result.cpu_seconds), "processor time", "s", fitted=True)


def _lines(
    rows: Sequence[BenchRow],
    looks: Looks,
    title: str,
    figure_of: Callable[[BenchRow], RepeatSpread | None],
    label: str,
    unit: str,
    fitted: bool = False,
) -> Figure:
    """A line for each cache over the response length, both scales logarithmic, with the spread of the repeats. fitted:
    with the exponents in a legend of each panel's own, instead of one legend for all."""
    figure, panels = panels_of(rows, title)
    for axis, some in panels:
        exponents = {g.cache: g.time for g in growths(some) if g.along == "gen" and fitted}
        for cache in caches_of(some):
            line = sorted((row for row in some if row.cell.cache == cache), key=lambda r: r.cell.gen)
            pairs = [(row.cell.gen, spread) for row in line if (spread := figure_of(row)) is not None]
            exponent = exponents.get(cache)
            name = cache if exponent is None else f"{cache}: {exponent.value:.2f}"
            draw_line(axis, [gen for gen, _ in pairs], [spread for _, spread in pairs], looks[cache], name)
        scale_lengths(axis, sorted({row.cell.gen for row in some}))
        if fitted:
            axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, frameon=False)
    scale_values(panels[0][0], unit)
    panels[0][0].set_ylabel(label)
    if not fitted:
        legend_below(figure, panels)
    return figure


def _spread(values: Sequence[float]) -> RepeatSpread:
    return RepeatSpread(statistics.median(values), min(values), max(values))


def _saved(rows: Sequence[BenchRow], looks: Looks, title: str) -> Figure:
    """Speed-up over the speed-up that the FLOPs alone would give, of the caches."""
    some = [row for row in rows if row.cell.cache not in (REFERENCE, AUTOREGRESSIVE)]
    figure, panels = panels_of(some or rows, title)
    for axis, shown in panels:
        for cache in caches_of(shown):
            mine = [row for row in shown if row.cell.cache == cache]
            spreads = [row.cpu_speedup for row in mine]
            look, y = looks[cache], [spread.median for spread in spreads if spread is not None]
            x = [row.flops_saved for row in mine]
            axis.plot(x, y, look.mark, color=look.colour, label=cache, markersize=look.size)
        high = max([row.flops_saved for row in some or rows])
        axis.plot([1, high], [1, high], "--", color="#999999", linewidth=1)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("FLOPs of no cache / own")
    scale_values(panels[0][0], "")
    panels[0][0].set_ylabel("processor time of no cache / own")
    legend_below(figure, panels)
    return figure


def _roofline(rows: Sequence[BenchRow], looks: Looks, title: str) -> Figure:
    """A bar for each cache: how many times longer than the roofline it takes."""
    caches = caches_of(rows)
    figure = Figure(figsize=(PANEL[0] * 1.6, 0.42 * len(caches) + 1.4), layout="constrained")
    axis = figure.subplots()
    for place, cache in enumerate(caches):
        found = [row.roofline for row in rows if row.cell.cache == cache]
        ratios = [spread.median for spread in found if spread is not None]
        middle = statistics.median(ratios)
        axis.barh(place, middle, color=looks[cache].colour, height=0.6)
        axis.plot([min(ratios), max(ratios)], [place, place], color="#555555", linewidth=1.2, marker="|")
        axis.text(max(ratios), place, f"  {middle:.1f}x", va="center", fontsize=9)
    axis.axvline(1, color="#999999", linewidth=1, linestyle="--")
    label_bars(axis, caches, "wall-clock time / roofline time", title)
    return figure


def _memory(rows: Sequence[BenchRow], looks: Looks, title: str) -> Figure:
    """Two bars for each cache, at the longest prompt and response: what it keeps, and the most that was held."""
    cell = max((row.cell for row in rows), key=lambda c: (c.prompt + c.gen, c.gen))
    some = [row for row in rows if (row.cell.prompt, row.cell.gen) == (cell.prompt, cell.gen)]
    caches = caches_of(some)
    figure = Figure(figsize=(PANEL[0] * 1.6, 0.6 * len(caches) + 1.6), layout="constrained")
    axis = figure.subplots()
    for place, row in enumerate(some):
        bars = ((-0.2, row.result.cache_bytes, 1.0), (0.2, row.result.peak_bytes, 0.35))
        for shift, size, strength in bars:
            if size is not None:
                axis.barh(place + shift, size, color=looks[row.cell.cache].colour, alpha=strength, height=0.36)
                axis.text(size, place + shift, f"  {with_unit(size, 'B')}", va="center", fontsize=8)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: with_unit(value, "B", 2)))
    known = "dark: keys, values and features; pale: the most held at once, beside the weights"
    label_bars(axis, caches, known, f"{title}, prompt {cell.prompt}, gen {cell.gen}")
    return figure


_KINDS: tuple[tuple[str, str, Callable[[Sequence[BenchRow], Looks, str], Figure]], ...] = (
    ("throughput", "generated tokens a second, up to the end-of-text.", _throughput),
    ("time", "processor time of a whole generation; in the legend the fitted exponents.", _time),
    ("saved", "what of the FLOPs saved became time saved, a mark a length; on the dashed line all did.", _saved),
    (
        "roofline",
        "wall-clock time over roofline time; 1 is as fast as can be. Bars: the median over the lengths; lines: all.",
        _roofline,
    ),
    ("flops", "operations of a whole generation.", _flops),
    ("memory", "memory at the longest prompt and response.", _memory),
)
"""Name, caption and drawing of each kind of plot."""

_UNTIMED = ("flops", "memory")
"""Those that need no times."""
