"""Charts drawn with matplotlib (the extra `plots`). Figures are objects of their own: no window, no global state."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from dkv.lab.common.charts import Bar, Chart, Heatmap, Panel, Series, with_unit

__all__ = ["draw", "png"]

_LOOKS = (
    ("#000000", "o"), ("#0072B2", "s"), ("#D55E00", "^"), ("#009E73", "D"), ("#CC79A7", "v"), ("#56B4E9", "P"),
    ("#E69F00", "X"), ("#7F7F7F", "*"), ("#8C510A", "<"), ("#5E3C99", ">"),
)  # fmt: skip
"""Colours that the colour-blind tell apart (Okabe and Ito's, without yellow), each with a mark of its own."""

_GREY, _GRID = "#777777", "#dddddd"
_SPREAD = 0.36
"""Of the distance between two categories: what the series side by side take up."""
_MOST_FIGURES = 12
"""Lines of a heatmap up to which its cells carry their figures."""


@dataclass(frozen=True)
class _Look:
    """How a name is drawn. What is drawn later is smaller, so that nothing hides what coincides with it."""

    colour: str
    mark: str
    last: float  # 0 of the first name, 1 of the last


def png(chart: Chart) -> bytes:
    """The chart as a PNG."""
    out = io.BytesIO()
    draw(chart).savefig(out, format="png", dpi=140)
    return out.getvalue()


def draw(chart: Chart) -> Figure:
    """The chart as a figure."""
    lines = -(-len(chart.panels) // chart.columns)
    width, height = chart.size
    figure = Figure(figsize=(width * chart.columns, height * lines + 1.3), layout="constrained")
    figure.suptitle(chart.title, fontsize=11)
    axes = figure.subplots(lines, chart.columns, squeeze=False, sharey=chart.shared).flatten()
    for unused in axes[len(chart.panels) :]:
        unused.remove()
    looks = _looks(chart)
    for axis, panel in zip(axes, chart.panels, strict=False):
        _panel(figure, axis, panel, looks)
    if not any(panel.legend for panel in chart.panels):
        _legend_below(figure)
    return figure


def _looks(chart: Chart) -> dict[str, _Look]:
    """A look for each name, in the order in which they come."""
    series = [one.name if one.like is None else one.like for panel in chart.panels for one in panel.series]
    bars = [bar.like for panel in chart.panels for bar in panel.bars]
    names = list(dict.fromkeys([*chart.looks, *series, *bars]))
    return {name: _Look(*_LOOKS[i % len(_LOOKS)], i / max(len(names) - 1, 1)) for i, name in enumerate(names)}


def _legend_below(figure: Figure) -> None:
    """One for all panels; none for a single name."""
    known: dict[str, object] = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        known |= dict(zip(labels, handles, strict=True))
    if len(known) > 1:
        figure.legend(
            handles=list(known.values()), labels=list(known), loc="outside lower center", ncols=min(len(known), 4),
            fontsize=8, frameon=False,
        )  # fmt: skip


def _panel(figure: Figure, axis: Axes, panel: Panel, looks: dict[str, _Look]) -> None:
    for number, series in enumerate(panel.series):
        shift = _SPREAD * (number - (len(panel.series) - 1) / 2) / len(panel.series) if series.x is None else 0.0
        _series(axis, series, looks[series.name if series.like is None else series.like], shift)
    for bar in panel.bars:
        _bar(axis, bar, looks[bar.like].colour)
    if panel.heat is not None:
        _heatmap(figure, axis, panel.heat)
    for level, name in panel.levels.items():
        axis.axhline(level, color=_GREY, linewidth=1, linestyle="--", label=name)
    if panel.limit is not None:
        axis.axvline(panel.limit, color=_GREY, linewidth=1, linestyle="--")
    axis.set_title(panel.title, fontsize=10)
    axis.set_xlabel(panel.x, fontsize=9)
    axis.set_ylabel(panel.y, fontsize=9)
    axis.tick_params(labelsize=8)
    if panel.heat is None:
        axis.grid(True, axis="x" if panel.bars else "y" if panel.categories else "both", which="major",
                  color=_GRID, linewidth=0.6)  # fmt: skip
        axis.set_axisbelow(True)
        (_scale_bars if panel.bars else _scale)(axis, panel)
    if panel.legend and axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, frameon=False)


def _series(axis: Axes, series: Series, look: _Look, shift: float) -> None:
    size, width = 8 - 3.5 * look.last, 2.4 - 1.4 * look.last
    if series.x is None:  # side by side, so that nothing coincides
        size, width = 6, 1.2
    places = range(len(series.y)) if series.x is None else series.x
    ends = series.ends or [None] * len(series.y)
    known = [(x + shift, y, end or (y, y)) for x, y, end in zip(places, series.y, ends, strict=True) if y is not None]
    errors = [[max(y - low, 0.0) for _, y, (low, _) in known], [max(high - y, 0.0) for _, y, (_, high) in known]]
    axis.errorbar(
        [x for x, _, _ in known], [y for _, y, _ in known], yerr=errors if series.ends else None,
        color=series.colour or look.colour, marker=look.mark if series.mark is None else series.mark,
        markersize=series.size or size, fillstyle="none" if series.hollow else "full",
        linestyle=series.style or "none", linewidth=width, elinewidth=1, capsize=2.5,
        label=series.name or "_",
    )  # fmt: skip


def _bar(axis: Axes, bar: Bar, colour: str) -> None:
    label = bar.like if bar.named else None
    axis.barh(bar.place, bar.value, color=colour, alpha=0.4 if bar.pale else 1.0, height=bar.height, label=label)
    if bar.ends is not None:
        axis.plot(bar.ends, [bar.place, bar.place], color="#555555", linewidth=1.2, marker="|")
    if bar.text:
        axis.text(max((bar.value, *(bar.ends or ()))), bar.place, f"  {bar.text}", va="center", fontsize=8)


def _scale_bars(axis: Axes, panel: Panel) -> None:
    """Names on the left, the first on top, room on the right for what stands behind the bars."""
    axis.set_yticks(range(len(panel.categories)), panel.categories)
    if not axis.yaxis_inverted():
        axis.invert_yaxis()
    axis.margins(x=0.3 if any(bar.text for bar in panel.bars) else 0.05)
    axis.set_xlim(left=0)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    if panel.unit_x is not None:
        axis.xaxis.set_major_formatter(_formatter(panel.unit_x))


def _scale(axis: Axes, panel: Panel) -> None:
    if panel.categories:
        _scale_categories(axis, panel.categories)
    elif not panel.log_x:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        axis.set_xscale("log")
        axis.xaxis.set_minor_locator(NullLocator())
        if isinstance(panel.log_x, Sequence):
            axis.set_xticks(panel.log_x, [f"{tick:g}" for tick in panel.log_x])
        else:
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if isinstance(panel.log_x, Sequence) and len(panel.log_x) == 1:
            axis.set_xlim(panel.log_x[0] / 2, panel.log_x[0] * 2)
    if panel.log_y is not None:
        _scale_values(axis, panel.log_y)
    if panel.low is not None or panel.high is not None:
        axis.set_ylim(panel.low, panel.high)
        if panel.high is None:
            axis.set_ylim(top=axis.get_ylim()[1] * 1.08)  # room for the topmost mark


def _scale_categories(axis: Axes, names: Sequence[str]) -> None:
    """The names, slanted where they would touch each other."""
    wide = max(map(len, names)) * len(names) > 48
    axis.set_xticks(range(len(names)), names, rotation=30 if wide else 0, ha="right" if wide else "center")
    axis.set_xlim(-0.6, len(names) - 0.4)


def _scale_values(axis: Axes, unit: str) -> None:
    """Logarithmic, labelled with plain numbers at 1, 2 and 5; where that would be next to nothing, evenly."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if high / low > 6 else MaxNLocator(6))
    axis.yaxis.set_major_formatter(_formatter(unit))
    axis.yaxis.set_minor_locator(NullLocator())


def _formatter(unit: str) -> FuncFormatter:
    return FuncFormatter(lambda value, _: with_unit(value, unit, 2))


def _heatmap(figure: Figure, axis: Axes, heat: Heatmap) -> None:
    """Line 0 below, dark = high, 0 pale; the figures in the cells where there is room."""
    shown = [[max(value, heat.low) for value in line] for line in heat.values]  # NaN stays what it is
    image = axis.imshow(shown, cmap="cividis_r", norm=LogNorm(heat.low, heat.high), aspect="auto", origin="lower")
    axis.set_xticks(range(len(heat.columns)), heat.columns, rotation=40, ha="right")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    if heat.label:
        figure.colorbar(image, ax=axis, label=heat.label)
    if len(heat.values) > _MOST_FIGURES:
        return
    for y, line in enumerate(heat.values):
        for x, value in enumerate(line):
            if not math.isnan(value):
                colour = "white" if value * value > heat.low * heat.high else "black"
                axis.text(x, y, _short(value), ha="center", va="center", fontsize=7, color=colour)


def _short(value: float) -> str:
    """Two figures: 0.69, 0.012, 4.1e-4."""
    if value == 0:
        return "0"
    if value >= 0.01:
        return f"{value:.2g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"
