"""The plots of a benchmark, as figures; needs matplotlib (the extra `plots`). Figures are objects of their own: no
window, no global state."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from dkv.bench.columns import with_unit
from dkv.bench.exponents import growths
from dkv.bench.grid import AUTOREGRESSIVE, REFERENCE
from dkv.bench.rows import Row, Spread

__all__ = ["Plot", "plots_of", "png"]

_LOOKS = (
    ("#000000", "o"), ("#0072B2", "s"), ("#D55E00", "^"), ("#009E73", "D"), ("#CC79A7", "v"), ("#56B4E9", "P"),
    ("#E69F00", "X"), ("#7F7F7F", "*"), ("#8C510A", "<"), ("#5E3C99", ">"),
)  # fmt: skip
"""Colours that the colour-blind tell apart (Okabe and Ito's, without yellow), each with a mark of its own."""

_PANEL = (4.6, 3.6)
"""Inches of a panel."""


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


def plots_of(rows: Sequence[Row]) -> Iterator[Plot]:
    """For each model, dtype and batch: throughput, growth of the cost, what of the FLOPs saved became time, distance
    from the roofline, and memory; those for which there is something to show."""
    looks = {cache: _LOOKS[i % len(_LOOKS)] for i, cache in enumerate(dict.fromkeys(row.cell.cache for row in rows))}
    for number, group in enumerate(_grouped(rows)):
        cell = group[0].cell
        where = f"{cell.model}, {cell.dtype}, batch {cell.batch}"
        timed = [row for row in group if row.result.seconds]
        if timed:
            yield Plot(f"throughput-{number}", f"Generated tokens a second, {where}.", _lines(
                timed, looks, lambda r: r.tokens_per_second, "tokens/s (to the end-of-text)", where))  # fmt: skip
            yield Plot(f"time-{number}", f"Processor time of a whole generation, {where}; the exponents in the legend "
                       "are fitted to the points.", _growth(timed, looks, where))  # fmt: skip
            yield Plot(f"saved-{number}", f"How much of the FLOPs saved became time saved, {where}; on the dashed line "
                       "all of it did.", _saved(timed, looks, where))  # fmt: skip
            yield Plot(f"roofline-{number}", f"Wall-clock time over what the machine's rates allow for the same rows, "
                       f"{where}; 1 is as fast as can be. Bars: the median over the lengths; lines: all of them.",
                       _bars(timed, looks, where))  # fmt: skip
        yield Plot(f"flops-{number}", f"Operations of a whole generation, {where}.", _lines(
            group, looks, lambda r: Spread(*[float(r.result.flops)] * 3), "FLOPs", where))  # fmt: skip
        yield Plot(f"memory-{number}", f"Keys, values and features, {where}.", _lines(
            group, looks, lambda r: Spread(*[float(r.result.cache_bytes)] * 3), "bytes", where))  # fmt: skip


def _grouped(rows: Sequence[Row]) -> list[list[Row]]:
    """By all settings but the lengths and the cache."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(replace(row.cell.point, prompt=0, gen=0, block=0, steps=0).key, []).append(row)
    return list(groups.values())


Looks = dict[str, tuple[str, str]]


def _panels(rows: Sequence[Row], title: str) -> tuple[Figure, list[tuple[Axes, list[Row]]]]:
    """A panel for each prompt length, side by side, with room for the legend below."""
    prompts = sorted({row.cell.prompt for row in rows})
    columns = min(len(prompts), 3)
    lines = -(-len(prompts) // columns)
    figure = Figure(figsize=(_PANEL[0] * max(columns, 1.5), _PANEL[1] * lines + 1.3), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
    for unused in axes[len(prompts) :]:
        unused.remove()
    shown = []
    for axis, prompt in zip(axes, prompts, strict=False):
        axis.set_title(f"prompt {prompt}", fontsize=10)
        axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
        shown.append((axis, [row for row in rows if row.cell.prompt == prompt]))
    return figure, shown


def _lines(
    rows: Sequence[Row], looks: Looks, figure_of: Callable[[Row], Spread | None], label: str, title: str
) -> Figure:
    """A line for each cache over the response length, both scales logarithmic, with the spread of the repeats."""
    figure, panels = _panels(rows, title)
    for axis, some in panels:
        for cache in _caches(some):
            line = sorted((row for row in some if row.cell.cache == cache), key=lambda r: r.cell.gen)
            pairs = [(row.cell.gen, spread) for row in line if (spread := figure_of(row)) is not None]
            _draw(axis, [gen for gen, _ in pairs], [spread for _, spread in pairs], looks[cache], cache)
        _scales(axis, sorted({row.cell.gen for row in some}))
    panels[0][0].set_ylabel(label)
    _legend(figure, panels)
    return figure


def _growth(rows: Sequence[Row], looks: Looks, title: str) -> Figure:
    """Processor seconds over the response length, the fitted exponents in a legend of each panel's own."""
    figure, panels = _panels(rows, title)
    for axis, some in panels:
        fitted = {g.cache: g.time for g in growths(some) if g.along == "gen"}
        for cache in _caches(some):
            line = sorted((row for row in some if row.cell.cache == cache), key=lambda r: r.cell.gen)
            exponent = fitted.get(cache)
            name = cache if exponent is None else f"{cache}: {exponent.value:.2f}"
            spreads = [_spread(row.result.cpu_seconds) for row in line]
            _draw(axis, [row.cell.gen for row in line], spreads, looks[cache], name)
        _scales(axis, sorted({row.cell.gen for row in some}))
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, frameon=False)
    panels[0][0].set_ylabel("processor seconds")
    return figure


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def _saved(rows: Sequence[Row], looks: Looks, title: str) -> Figure:
    """Speed-up over FLOPs saved, of the caches."""
    some = [row for row in rows if row.cell.cache not in (REFERENCE, AUTOREGRESSIVE)]
    figure, panels = _panels(some or rows, title)
    for axis, shown in panels:
        for cache in _caches(shown):
            mine = [row for row in shown if row.cell.cache == cache]
            spreads = [row.cpu_speedup for row in mine]
            colour, mark = looks[cache]
            y = [spread.median for spread in spreads if spread is not None]
            axis.plot([row.flops_saved for row in mine], y, mark, color=colour, label=cache, markersize=7)
        high = max([row.flops_saved for row in some or rows])
        axis.plot([1, high], [1, high], "--", color="#999999", linewidth=1)
        axis.set_xlabel("FLOPs saved (times)")
    panels[0][0].set_ylabel("processor time saved (times)")
    _legend(figure, panels)
    return figure


def _bars(rows: Sequence[Row], looks: Looks, title: str) -> Figure:
    """A bar for each cache: how many times longer than the roofline it takes."""
    caches = _caches(rows)
    figure = Figure(figsize=(_PANEL[0] * 1.6, 0.42 * len(caches) + 1.4), layout="constrained")
    axis = figure.subplots()
    for place, cache in enumerate(caches):
        found = [row.roofline for row in rows if row.cell.cache == cache]
        ratios = [spread.median for spread in found if spread is not None]
        middle = statistics.median(ratios)
        axis.barh(place, middle, color=looks[cache][0], height=0.6)
        axis.plot([min(ratios), max(ratios)], [place, place], color="#555555", linewidth=1.2, marker="|")
        axis.text(max(ratios), place, f"  {middle:.1f}x", va="center", fontsize=9)
    axis.set_yticks(range(len(caches)), caches)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.axvline(1, color="#999999", linewidth=1, linestyle="--")
    axis.set_xlabel("wall-clock time / roofline time")
    axis.set_title(title, fontsize=11)
    return figure


def _caches(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.cell.cache for row in rows))


def _draw(axis: Axes, x: Sequence[float], spreads: Sequence[Spread], look: tuple[str, str], label: str) -> None:
    middle = [spread.median for spread in spreads]
    below = [spread.median - spread.low for spread in spreads]
    above = [spread.high - spread.median for spread in spreads]
    axis.errorbar(
        x, middle, yerr=(below, above), color=look[0], marker=look[1], label=label, markersize=6, linewidth=1.3,
        capsize=2,
    )  # fmt: skip


def _scales(axis: Axes, gens: Sequence[int]) -> None:
    """Logarithmic, labelled with plain numbers; the lengths are where they were measured."""
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(gens, [str(gen) for gen in gens])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(axis="x", which="minor", length=0)
    low, high = axis.get_ylim()
    format_ = FuncFormatter(lambda value, _: with_unit(value, "", 2))
    axis.yaxis.set_major_formatter(format_)
    # Within one decade the powers of ten alone would label next to nothing.
    axis.yaxis.set_minor_formatter(format_ if math.log10(high / low) < 1.3 else NullFormatter())
    axis.tick_params(axis="y", which="both", labelsize=8)
    axis.set_xlabel("gen length (and steps)")


def _legend(figure: Figure, panels: Sequence[tuple[Axes, list[Row]]]) -> None:
    """One for all panels, below them."""
    known: dict[str, object] = {}
    for axis, _ in panels:
        handles, labels = axis.get_legend_handles_labels()
        known |= dict(zip(labels, handles, strict=True))
    figure.legend(
        handles=list(known.values()),
        labels=list(known),
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        frameon=False,
    )
