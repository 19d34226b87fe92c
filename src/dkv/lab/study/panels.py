"""The parts that plots over layers share: colours with marks, a grid of panels, a heatmap with its figures in it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

__all__ = ["COLOURS", "MARKS", "grid", "heatmap", "layer_axis"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
"""Colours that the colour-blind tell apart (of Okabe and Ito's)."""
MARKS = ("s", "^", "D", "o")

_MOST_FIGURES = 12
"""Rows of a heatmap up to which its cells carry their figures."""


def grid(
    rows: int, columns: int, title: str, size: tuple[float, float] = (4.6, 3.6)
) -> tuple[Figure, list[list[Axes]]]:
    """rows x columns panels of `size` inches under one title."""
    figure = Figure(figsize=(size[0] * columns, size[1] * rows + 0.8), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, [list(line) for line in axes]


def layer_axis(axis: Axes) -> None:
    """Layers along x, as whole numbers."""
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("layer")
    axis.grid(True, color="#dddddd", linewidth=0.6)


def heatmap(
    axis: Axes, values: Sequence[Sequence[float]], columns: Sequence[str], low: float, high: float
) -> AxesImage:
    """values [layers][columns] on a logarithmic scale, layer 0 below, dark = high; the figures in the cells where there
    is room. What is 0 is pale, NaN blank."""
    shown = [[max(value, low) for value in line] for line in values]  # NaN stays what it is
    image = axis.imshow(shown, cmap="cividis_r", norm=LogNorm(low, high), aspect="auto", origin="lower")
    axis.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel("layer")
    if len(values) <= _MOST_FIGURES:
        for y, line in enumerate(values):
            for x, value in enumerate(line):
                if not math.isnan(value):
                    dark = value * value > low * high
                    axis.text(x, y, _short(value), ha="center", va="center", fontsize=7,
                              color="white" if dark else "black")  # fmt: skip
    return image


def _short(value: float) -> str:
    """Two figures: 0.69, 0.012, 4.1e-4."""
    if value == 0:
        return "0"
    if value >= 0.01:
        return f"{value:.2g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"
