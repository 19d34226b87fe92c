"""The plot of the study `length`: seconds, speed-up and memory over the positions, a row for each way of growing. Needs
matplotlib (the extra `plots`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dkv.lab.bench.plot_parts import Look, look_for, scale_lengths, scale_values
from dkv.lab.study.length_curve import LengthCurve

__all__ = ["length_figure"]

_TITLES = {"prompt": "the prompt grows, 256 positions of response", "both": "both grow, a quarter is response"}


def length_figure(lines: Sequence[LengthCurve]) -> Figure:
    """Four panels for each way of growing; in the first one's legend the fitted exponents of the seconds."""
    ways = list(dict.fromkeys(line.growing for line in lines))
    looks = look_for(list(dict.fromkeys(line.policy for line in lines)))
    figure = Figure(figsize=(17, 4.4 * len(ways) + 0.4), layout="constrained")
    figure.suptitle(
        "Cost by length: a small LLaDA with random weights, float32, composed of sampled steps", fontsize=11
    )
    grid = figure.subplots(len(ways), 4, squeeze=False)
    for way, axes in zip(ways, grid, strict=True):
        some = [line for line in lines if line.growing == way]
        cached = [line for line in some if line.policy != "none"]
        _panel(axes[0], some, looks, lambda line: [r["seconds"] for _, r in line.points], "s", _with_exponent)
        axes[0].set(ylabel="whole generation (processor time)", title=f"{_TITLES[way]}; legend: exponent")
        _panel(axes[1], cached, looks, lambda line: line.speedups, "", _name)
        axes[1].axhline(1, color="#999999", linewidth=1, linestyle="--")
        axes[1].set(ylabel="speed-up over no cache (times)", title="speed-up")
        _panel(axes[2], cached, looks, lambda line: [r["llada_saved"] for _, r in line.points], "", _name)
        axes[2].set(ylabel="operations saved (times)", title="counted, on LLaDA-8B's shape")
        _panel(axes[3], some, looks, lambda line: [r["peak_bytes"] for _, r in line.points], "B", _name)
        axes[3].set(ylabel="most memory held, beside the weights", title="peak memory of a step, cache included")
        for axis in axes:
            axis.title.set_fontsize(9)
            axis.legend(fontsize=7.5, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, frameon=False)
    return figure


def _name(line: LengthCurve) -> str:
    return line.policy


def _with_exponent(line: LengthCurve) -> str:
    short, found = line.policy.partition(":")[0], line.exponent
    return short if found is None else f"{short}: {found.value:.2f}"


def _panel(
    axis: Axes,
    lines: Sequence[LengthCurve],
    looks: dict[str, Look],
    values_of: Callable[[LengthCurve], list[float | None]] | Callable[[LengthCurve], list[float]],
    unit: str,
    name_of: Callable[[LengthCurve], str],
) -> None:
    """A line for each policy, both scales logarithmic; what was not measured is left out."""
    for line in lines:
        look = looks[line.policy]
        pairs = [(x, y) for x, y in zip(line.positions, values_of(line), strict=True) if y is not None]
        axis.plot(
            [x for x, _ in pairs], [y for _, y in pairs], color=look.colour, marker=look.mark, markersize=look.size,
            linewidth=look.line, label=name_of(line).partition(":kp")[0],
        )  # fmt: skip
    scale_values(axis, unit)
    scale_lengths(axis, sorted({x for line in lines for x in line.positions}))
    axis.set_xlabel("positions (prompt and response)")
    axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
