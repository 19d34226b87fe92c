"""The plot of the study `memory`: bars of memory, work and fidelity, one for each policy and dtype. Needs matplotlib
(the extra `plots`)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dkv.lab.bench.columns import with_unit
from dkv.lab.bench.plot_parts import look_for
from dkv.lab.eval.statistics import Share
from dkv.lab.study.base import Record
from dkv.lab.study.memory_cells import label_of, seconds_saved

__all__ = ["memory_figure"]


def memory_figure(records: Sequence[Record]) -> Figure:
    """Four panels with the same lines; pale bars are caches in bfloat16."""
    figure = Figure(figsize=(15, 0.42 * len(records) + 1.8), layout="constrained")
    figure.suptitle(
        "Memory against compute: the embedded model in float32, the cache in float32 or bfloat16", fontsize=11
    )
    axes = figure.subplots(1, 4, sharey=True)
    results = [record.result for record in records]
    _bars(axes[0], records, [r["cache_bytes"] for r in results], "cache memory of a position", "B")
    peaks = [r["peak_bytes"] or 0 for r in results]
    _bars(axes[1], records, peaks, "peak of a whole step of 2,048 positions", "B")
    _bars(axes[2], records, [seconds_saved(r) for r in results], "speed-up over no cache (times)", "")
    shares = [Share(sum(r["same"]), len(r["same"])) for r in results]
    _bars(axes[3], records, [100 * s.value for s in shares], "texts as without a cache (%), 95% interval", None)
    for place, share in enumerate(shares):
        low, high = share.interval
        axes[3].plot([100 * low, 100 * high], [place, place], color="#888888", linewidth=1.8, marker="|")
    axes[3].set_xlim(0, 103)
    axes[0].set_yticks(range(len(records)), [label_of(record.cell) for record in records], fontsize=9)
    axes[0].invert_yaxis()
    return figure


def _bars(axis: Axes, records: Sequence[Record], values: Sequence[float], label: str, unit: str | None) -> None:
    """unit: of the figure behind each bar, None = no figure."""
    looks = look_for(list(dict.fromkeys(record.cell["cache"] for record in records)))
    for place, (record, value) in enumerate(zip(records, values, strict=True)):
        pale = record.cell["cache_dtype"] == "bfloat16"
        axis.barh(place, value, color=looks[record.cell["cache"]].colour, alpha=0.45 if pale else 1.0, height=0.62)
        if unit is not None:
            axis.text(value, place, f" {with_unit(value, unit) if unit else f'{value:.2f}x'}", va="center", fontsize=8)
    axis.margins(x=0.3)
    axis.set_xlim(left=0)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    if unit == "B":
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: with_unit(value, "B", 2)))
    axis.set_xlabel(label, fontsize=9)
    axis.tick_params(axis="x", labelsize=8)
