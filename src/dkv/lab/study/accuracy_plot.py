"""The plot that accuracy studies share: panels of points with their intervals over categories, a look for each series.
Needs matplotlib (the extra `plots`); import it where a figure is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dkv.lab.bench.plot_parts import PANEL, Looks, look_for
from dkv.lab.eval.statistics import Share
from dkv.lab.study.accuracy import NONE, Policy, Pool, pool
from dkv.lab.study.base import Record

__all__ = ["Panel", "Point", "accuracy_and_rows", "beside_none", "draw", "percent"]

_SPREAD = 0.36
"""Of the distance between two categories: what the series side by side take up."""


@dataclass(frozen=True)
class Point:
    """A value, and its interval if it has one."""

    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Panel:
    """label: of the values, with their unit; series: points by name, one for each category, None where there is none;
    low, high: ends of the scale, None = as the values ask."""

    label: str
    series: Mapping[str, Sequence[Point | None]]
    low: float | None = None
    high: float | None = None


def percent(share: Share) -> Point:
    """A share with its interval, in percent."""
    low, high = share.interval
    return Point(100 * share.value, (100 * low, 100 * high))


def accuracy_and_rows(
    title: str, axis: str, categories: Sequence[str], series: Mapping[str, Sequence[Pool | None]], joined: bool = True
) -> Figure:
    """Accuracy beside the rows computed, over the categories."""
    counts = {len(p.right) for pools in series.values() for p in pools if p is not None}
    known = (
        f"right answers (%), n={counts.pop()}, 95% interval" if len(counts) == 1 else "right answers (%), 95% interval"
    )
    right = {name: [None if p is None else percent(p.share) for p in pools] for name, pools in series.items()}
    rows = {name: [None if p is None else Point(100 * p.rows_share) for p in pools] for name, pools in series.items()}
    panels = [Panel(known, right, 0, 105), Panel("rows computed (% of no cache)", rows, 0, 105)]
    return draw(title, axis, categories, panels, joined)


def beside_none(title: str, axis: str, label: str, records: Sequence[Record]) -> Figure:
    """Accuracy and rows over the values of a cache's one key, beside no cache. label: of the cache."""
    policies = list(dict.fromkeys(Policy(record.cell["cache"]) for record in records))
    names = ["none" if p == NONE else p.cache.rpartition("=")[2] for p in policies]
    series = {
        "no cache": [pool(records, p) if p == NONE else None for p in policies],
        label: [None if p == NONE else pool(records, p) for p in policies],
    }
    return accuracy_and_rows(title, axis, names, series)


def draw(title: str, axis: str, categories: Sequence[str], panels: Sequence[Panel], joined: bool = True) -> Figure:
    """Panels over the same categories, two or three in a line. joined: with lines between the points of a series."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    columns = 3 if len(panels) == 3 else min(len(panels), 2)
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(PANEL[0] * 1.15 * columns, PANEL[1] * lines + 0.8), layout="constrained")
    figure.suptitle(title, fontsize=11)
    looks = look_for(names)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for unused in axes[len(panels) :]:
        unused.remove()
    for place, panel in zip(axes, panels, strict=False):
        _panel(place, panel, looks, categories, joined)
        place.set_xlabel(axis, fontsize=9)
    known = {label: handle for place in figure.axes for handle, label in zip(*_named(place), strict=True)}
    if len(known) > 1:
        figure.legend(
            list(known.values()), list(known), loc="outside lower center", ncols=min(len(known), 3), fontsize=9,
            frameon=False,
        )  # fmt: skip
    return figure


def _named(axis: Axes) -> tuple[list[Artist], list[str]]:
    """The series of a panel that have a name."""
    handles, labels = axis.get_legend_handles_labels()
    return handles, labels


def _panel(axis: Axes, panel: Panel, looks: Looks, categories: Sequence[str], joined: bool) -> None:
    for number, (name, points) in enumerate(panel.series.items()):
        shift = _SPREAD * (number - (len(panel.series) - 1) / 2) / max(len(panel.series), 1)
        known = [(x + shift, point) for x, point in enumerate(points) if point is not None]
        axis.errorbar(
            [x for x, _ in known], [point.value for _, point in known], yerr=_errors([point for _, point in known]),
            color=looks[name].colour, marker=looks[name].mark, markersize=6, linewidth=1.2 if joined else 0,
            elinewidth=1.1, capsize=2.5, label=name,
        )  # fmt: skip
    wide = max(len(text) for text in categories) * len(categories) > 48
    axis.set_xticks(range(len(categories)), categories, rotation=30 if wide else 0, ha="right" if wide else "center")
    axis.tick_params(labelsize=8)
    axis.set_xlim(-0.6, len(categories) - 0.4)
    axis.set_ylim(panel.low, panel.high)
    if panel.high is None:
        axis.set_ylim(top=axis.get_ylim()[1] * 1.08)  # room for the topmost mark
    axis.set_ylabel(panel.label, fontsize=9)
    axis.grid(True, axis="y", color="#dddddd", linewidth=0.6)


def _errors(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """How far the intervals reach below and above."""
    ends = [point.interval or (point.value, point.value) for point in points]
    below = [max(point.value - low, 0.0) for point, (low, _) in zip(points, ends, strict=True)]
    above = [max(high - point.value, 0.0) for point, (_, high) in zip(points, ends, strict=True)]
    return below, above
