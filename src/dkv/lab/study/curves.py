"""Fidelity over time, a line for each family of settings. Needs matplotlib (the extra `plots`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dkv.lab.bench.plot_parts import PANEL, Look, look_for
from dkv.lab.eval.statistics import Share
from dkv.lab.study.accuracy import Pool

__all__ = ["Curve", "curves"]


@dataclass(frozen=True)
class Curve:
    """Settings of one family, joined in the order of their time."""

    name: str
    pools: Sequence[Pool]


def curves(title: str, lines: Sequence[Curve], none: Pool) -> Figure:
    """Agreement with no cache, and right answers, over processor time relative to no cache."""
    figure = Figure(figsize=(PANEL[0] * 2.6, PANEL[1] * 1.5), layout="constrained")
    figure.suptitle(f"{title}, n={len(none.right)}, 95% interval", fontsize=11)
    looks, (first, second) = look_for([line.name for line in lines]), figure.subplots(1, 2)
    for line in lines:
        _draw(first, line, looks[line.name], none, lambda p: p.agreement(none))
        _draw(second, line, looks[line.name], none, lambda p: p.share)
    second.axhline(100 * none.share.value, color="#444444", linewidth=1, linestyle="--", label="no cache")
    for axis, label in ((first, "answers that are no cache's (%)"), (second, "right answers (%)")):
        axis.set_xlabel("processor time (% of no cache)", fontsize=9)
        axis.set_ylabel(label, fontsize=9)
        axis.set_xscale("log")
        axis.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
        axis.tick_params(labelsize=8)
        axis.grid(True, color="#dddddd", linewidth=0.6)
    handles, labels = second.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def _draw(axis: Axes, line: Curve, look: Look, none: Pool, value: Callable[[Pool], Share]) -> None:
    pools = sorted(line.pools, key=lambda p: p.cpu_seconds)
    shares = [value(p) for p in pools]
    axis.errorbar(
        [100 * p.cpu_seconds / none.cpu_seconds if none.cpu_seconds else 100 for p in pools],
        [100 * share.value for share in shares],
        yerr=(
            [100 * (share.value - share.interval[0]) for share in shares],
            [100 * (share.interval[1] - share.value) for share in shares],
        ),
        color=look.colour, marker=look.mark, markersize=6, linewidth=1.2, elinewidth=0.8, capsize=2, label=line.name,
    )  # fmt: skip
