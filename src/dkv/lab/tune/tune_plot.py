"""Speed against fidelity, every setting tried, as one figure. Needs matplotlib (the extra `plots`)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from dkv.lab.bench.plot_parts import look_for
from dkv.lab.tune.budget import Budget
from dkv.lab.tune.race import Trial

__all__ = ["figure", "front"]


def front(trials: Sequence[Trial], budget: Budget) -> list[Trial]:
    """The settings that no other beats in both cost and loss, the cheapest first."""
    best: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (t.cost, budget.estimate(t.loss))):
        if not best or budget.estimate(trial.loss) < budget.estimate(best[-1].loss):
            best.append(trial)
    return best


def figure(trials: Sequence[Trial], reference: Trial, budget: Budget, chosen: Trial | None) -> Figure:
    """Each setting's loss over how many times cheaper than the reference it is; the front joined, the budget a line."""
    drawn = Figure(figsize=(7.6, 5.0), layout="constrained")
    axis = drawn.subplots()
    decoders = list(dict.fromkeys(trial.setting.decoder for trial in trials))
    looks = look_for(decoders)
    for decoder in decoders:
        of_it = [trial for trial in trials if trial.setting.decoder == decoder]
        axis.plot(
            [reference.cost / t.cost for t in of_it], [100 * budget.estimate(t.loss) for t in of_it], linestyle="none",
            marker=looks[decoder].mark, color=looks[decoder].colour, markersize=6, label=decoder,
        )  # fmt: skip
    line = front(trials, budget)
    axis.plot(
        [reference.cost / t.cost for t in line], [100 * budget.estimate(t.loss) for t in line], color="#444444",
        linewidth=1, zorder=0, label="no setting beats these in both",
    )  # fmt: skip
    axis.axhline(100 * budget.limit, color="#444444", linewidth=1, linestyle="--", label=f"budget: {budget}")
    if chosen is not None:
        at = reference.cost / chosen.cost, 100 * budget.estimate(chosen.loss)
        axis.plot(
            *at, marker="o", markersize=15, markerfacecolor="none", color="black", linestyle="none", label="chosen"
        )
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_xlabel("times cheaper than no cache, one token a step (rows and forwards)", fontsize=9)
    what = "answers changed (%)" if budget.kind == "changed" else "accuracy lost (points)"
    axis.set_ylabel(f"{what}, as many examples as each had in the race", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(True, color="#dddddd", linewidth=0.6)
    drawn.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return drawn
