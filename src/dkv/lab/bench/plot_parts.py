"""The parts that the plots of a benchmark share: looks, panels, scales, legends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from dkv.lab.bench.columns import with_unit
from dkv.lab.bench.rows import BenchRow, RepeatSpread

__all__ = [
    "PANEL",
    "Look",
    "Looks",
    "caches_of",
    "draw_line",
    "label_bars",
    "legend_below",
    "look_for",
    "looks_of",
    "panels_of",
    "scale_lengths",
    "scale_values",
]

_LOOKS = (
    ("#000000", "o"), ("#0072B2", "s"), ("#D55E00", "^"), ("#009E73", "D"), ("#CC79A7", "v"), ("#56B4E9", "P"),
    ("#E69F00", "X"), ("#7F7F7F", "*"), ("#8C510A", "<"), ("#5E3C99", ">"),
)  # fmt: skip
"""Colours that the colour-blind tell apart (Okabe and Ito's, without yellow), each with a mark of its own."""

PANEL = (4.6, 3.6)
"""Inches of a panel."""


@dataclass(frozen=True)
class Look:
    """How a cache is drawn. last: 0 of the first cache, 1 of the last: what is drawn later is smaller, so that nothing
    hides what coincides with it."""

    colour: str
    mark: str
    last: float

    @property
    def size(self) -> float:
        """Points of the mark."""
        return 9 - 4.5 * self.last

    @property
    def line(self) -> float:
        """Points of the line."""
        return 2.6 - 1.6 * self.last


Looks = dict[str, Look]


def looks_of(rows: Sequence[BenchRow]) -> Looks:
    """A look for each cache, in the order in which they come."""
    return look_for(caches_of(rows))


def look_for(names: Sequence[str]) -> Looks:
    """A look for each name, in order."""
    return {name: Look(*_LOOKS[i % len(_LOOKS)], i / max(len(names) - 1, 1)) for i, name in enumerate(names)}


def caches_of(rows: Sequence[BenchRow]) -> list[str]:
    """The caches of some rows, in the order in which they come."""
    return list(dict.fromkeys(row.cell.cache for row in rows))


def panels_of(rows: Sequence[BenchRow], title: str) -> tuple[Figure, list[tuple[Axes, list[BenchRow]]]]:
    """A panel for each prompt length, side by side, with room for the legend below."""
    prompts = sorted({row.cell.prompt for row in rows})
    columns = min(len(prompts), 3)
    lines = -(-len(prompts) // columns)
    figure = Figure(figsize=(PANEL[0] * max(columns, 1.5), PANEL[1] * lines + 1.3), layout="constrained")
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


def label_bars(axis: Axes, caches: Sequence[str], label: str, title: str) -> None:
    """Names on the left, the first on top, room on the right for what stands behind the bars."""
    axis.set_yticks(range(len(caches)), caches)
    axis.invert_yaxis()
    axis.margins(x=0.14)
    axis.set_xlabel(label, fontsize=9)
    axis.set_title(title, fontsize=11)


def draw_line(axis: Axes, x: Sequence[float], spreads: Sequence[RepeatSpread], look: Look, label: str) -> None:
    """The medians of a cache over x, with the spread of each."""
    middle = [spread.median for spread in spreads]
    below = [spread.median - spread.low for spread in spreads]
    above = [spread.high - spread.median for spread in spreads]
    axis.errorbar(
        x, middle, yerr=(below, above), color=look.colour, marker=look.mark, label=label, markersize=look.size,
        linewidth=look.line, elinewidth=1, capsize=2,
    )  # fmt: skip


def scale_lengths(axis: Axes, gens: Sequence[int]) -> None:
    """Logarithmic; the lengths stand where they were measured."""
    axis.set_xscale("log")
    axis.set_xticks(gens, [str(gen) for gen in gens])
    if len(gens) == 1:
        axis.set_xlim(gens[0] / 2, gens[0] * 2)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("gen length (and steps)")


def scale_values(axis: Axes, unit: str) -> None:
    """Logarithmic, labelled with plain numbers at 1, 2 and 5; where that would be next to nothing, evenly."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if high / low > 6 else MaxNLocator(6))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: with_unit(value, unit, 2)))
    axis.yaxis.set_minor_locator(NullLocator())


def legend_below(figure: Figure, panels: Sequence[tuple[Axes, list[BenchRow]]]) -> None:
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
