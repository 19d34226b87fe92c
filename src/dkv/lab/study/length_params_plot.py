"""The plot of the study `length-params`: speed-up over the positions beside fidelity, by setting. Needs matplotlib (the
extra `plots`)."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dkv.lab.bench.plot_parts import look_for, scale_lengths, scale_values
from dkv.lab.eval.statistics import Share
from dkv.lab.study.length_grid import Found, Params

__all__ = ["length_params_figure"]


def length_params_figure(found: Found) -> Figure:
    """Settings whose fidelity was measured, else all."""
    lengths = sorted(found.seconds)
    settings = list(found.fidelity) or list(found.seconds[lengths[0]] if lengths else ())
    looks = look_for([str(params) for params in settings])
    figure = Figure(figsize=(13, 5.4), layout="constrained")
    figure.suptitle("dllm-cache at length: settings one at a time around kp 50, kr 7, rho 0.25", fontsize=11)
    time, texts, candidates = figure.subplots(1, 3)
    for params in settings:
        timed = [n for n in lengths if params in found.seconds[n]]
        if timed:
            look, name = looks[str(params)], str(params)
            time.plot(
                timed, [found.speedup(n, params) for n in timed], color=look.colour, marker=look.mark, label=name,
                markersize=look.size, linewidth=look.line,
            )  # fmt: skip
    scale_values(time, "")
    scale_lengths(time, lengths)
    time.set(xlabel="positions (prompt, and 256 of response)", ylabel="speed-up over no cache (times)")
    if time.lines:
        time.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=2, frameon=False)
    _bars(texts, settings, [Share(sum(r["same"]), len(r["same"])) for r in found.fidelity.values()])
    texts.set_xlabel("texts as without a cache (%), 95% interval")
    _bars(candidates, settings, [Share(r["differ"], max(r["compared"], 1)) for r in found.fidelity.values()], False)
    candidates.set_xlabel("candidates that differ, on the same canvas (%)")
    return figure


def _bars(axis: Axes, settings: list[Params], shares: list[Share], interval: bool = True) -> None:
    """A bar for each setting. interval: with that of the share; candidates of one text are not independent."""
    for place, share in enumerate(shares):
        value, (low, high) = 100 * share.value, share.interval
        axis.barh(place, value, color="#56B4E9", height=0.6)
        if interval:
            axis.plot([100 * low, 100 * high], [place, place], color="#333333", linewidth=1.2, marker="|")
    axis.set_yticks(range(len(settings)), [str(params) for params in settings], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.grid(True, axis="x", color="#dddddd", linewidth=0.6)
