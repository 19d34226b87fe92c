"""Charts as data: panels of series, bars or a heatmap. `dkv.lab.common.plots` draws them; it alone needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Bar", "Chart", "Ends", "Heatmap", "Panel", "Series", "digits_of", "with_unit"]

Ends = tuple[float, float]
"""The lower and the upper end of an interval."""


def with_unit(value: float, unit: str, digits: int = 3) -> str:
    """A number to so many digits with a prefix: 12.3 G, 456 µ."""
    if not value:
        return f"0 {unit}".rstrip()
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0), ("m", 1e-3)):
        if abs(value) >= size:
            return f"{digits_of(value / size, digits)} {prefix}{unit}".rstrip()
    return f"{digits_of(value * 1e6, digits)} µ{unit}"


def digits_of(value: float, digits: int) -> str:
    """A number to so many digits, without an exponent."""
    whole = len(str(int(abs(value))))
    return f"{value:.{max(digits - whole, 0)}f}"


@dataclass(frozen=True)
class Series:
    """Points of one name."""

    name: str  # in the legend; "" = not there
    y: Sequence[float | None]  # None where nothing was measured
    x: Sequence[float] | None = None  # None = the panel's categories, one after the other
    ends: Sequence[Ends | None] = ()  # the interval of each point
    like: str | None = None  # the series whose colour and mark it has; None = its own
    style: str = "-"  # of the line, as matplotlib names it; "" = points alone
    hollow: bool = False
    colour: str | None = None  # instead of the look's
    mark: str | None = None  # instead of the look's; "" = none
    size: float | None = None  # points of the mark, instead of the look's


@dataclass(frozen=True)
class Bar:
    """A horizontal bar on one of the panel's categories."""

    place: float  # the category's number, the first on top
    value: float
    like: str = ""  # whose colour it has
    text: str = ""  # behind its end
    ends: Ends | None = None
    pale: bool = False
    height: float = 0.6
    named: bool = False  # the colour's name is in the legend


@dataclass(frozen=True)
class Heatmap:
    """Values [lines][columns] on a logarithmic scale from low to high; NaN is blank."""

    values: Sequence[Sequence[float]]
    columns: Sequence[str]
    low: float
    high: float
    label: str = ""  # of the colour bar; "" = none


@dataclass(frozen=True)
class Panel:
    """Axes with series or bars over categories or numbers, or a heatmap."""

    x: str = ""
    y: str = ""
    title: str = ""
    series: Sequence[Series] = ()
    bars: Sequence[Bar] = ()
    heat: Heatmap | None = None
    categories: Sequence[str] = ()  # along x; of bars along y
    low: float | None = None  # ends of the scale of values; None = as the values ask
    high: float | None = None
    log_x: Sequence[float] | bool = False  # a logarithmic scale; numbers: its ticks
    log_y: str | None = None  # a logarithmic scale of values in this unit
    unit_x: str | None = None  # of numbers along x, with prefixes
    levels: Mapping[float, str] = field(default_factory=dict)  # dashed lines across, with their names in the legend
    limit: float | None = None  # a dashed line upright
    legend: bool = False  # one of its own, below it


@dataclass(frozen=True)
class Chart:
    """Panels in lines of `columns` under one title, with one legend below unless panels have their own."""

    title: str
    panels: Sequence[Panel]
    columns: int = 1
    size: tuple[float, float] = (5.3, 3.6)  # inches of a panel
    looks: Sequence[str] = ()  # names whose colours come first, in this order
    shared: bool = False  # the panels of a line have one scale of values
