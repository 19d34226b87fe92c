"""V-verify: does the drift of a row's value vector tell which rows' features drifted?

dLLM-Cache recomputes, between refreshes, the share rho of the response rows whose values drifted most, on the finding
that this drift goes with that of the attention and feed-forward outputs, which are what it keeps. Only the order of
the rows matters for that choice, so it is the rank correlation, within a step, that decides here; a few rows that drift
far (the one just decoded, above all) are enough for a high Pearson correlation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dkv.core.drift import drift
from dkv.lab.study.base import Cell, Effort, Record, Verdict
from dkv.lab.study.context import Kit
from dkv.lab.study.correlation import overlap, pearson, spearman
from dkv.lab.study.domains import DOMAINS, domains_of, exact, snapshots, task_cells
from dkv.lab.study.layer_probes import Snapshot
from dkv.lab.study.resampling import Interval, bootstrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["VVerify", "correlations"]

_FEATURES = {"attn": "attention output", "mlp": "FFN output"}
_MEASURES = {
    "spearman": "Spearman's rank correlation",
    "pearson": "Pearson's correlation",
    "overlap": "share of the top rows found",
}
_STRONG = 0.7
"""A rank correlation from which a proxy is usually called strong: it explains half of the ranks' variance."""
_RHO = 0.25


@dataclass(frozen=True)
class VVerify:
    """Drift of V against drift of the features, per layer and domain. rho: share of the response that is picked.

    Held: in every domain, and for both features, the median over the layers above the first of Spearman's correlation
    is at least 0.7; open while the bootstrap interval over prompts of one of them straddles 0.7 and none lies below.
    The first layer is left out: its values depend on a row's own token alone, so only a just decoded row can drift.
    """

    rho: float = _RHO
    name: ClassVar[str] = "vverify"
    claim: ClassVar[str] = (
        "The drift of a token's V between steps goes strongly with the drift of its attention and FFN outputs, so V "
        "tells which tokens to recompute (dLLM-Cache, arXiv 2506.06295, section 3.3 and figure 3)."
    )

    def cells(self, effort: Effort) -> Sequence[Cell]:
        """A few examples of each task, with rho."""
        return [{**cell, "rho": self.rho} for cell in task_cells(effort)]

    def measure(self, kit: Kit, cells: Sequence[Cell]) -> Iterator[Record]:
        """A generation without a cache for each cell, in float32. Raises what loading raises, and PromptError."""
        lm = exact(kit)
        for cell in cells:
            kit.tell(f"vverify: {cell['task']}, prompts from {cell['first']}")
            yield Record(cell, {"prompts": correlations(snapshots(lm, cell), cell["rho"])})

    def figure(self, records: Sequence[Record]) -> Figure:
        """Each measure over the layers, a line for each domain and feature."""
        from dkv.lab.study.panels import grid

        domains = domains_of([record.cell for record in records])
        figure, panels = grid(1, len(_MEASURES), "Drift of V between steps against drift of what a layer adds")
        for axis, (measure, label) in zip(panels[0], _MEASURES.items(), strict=True):
            _draw(axis, records, domains, measure)
            axis.set_title(label, fontsize=10)
        panels[0][0].axhline(_STRONG, color="#999999", linewidth=1, linestyle=":")
        panels[0][0].set_ylabel("mean over steps and prompts (no unit)")
        panels[0][2].axhline(self.rho, color="#999999", linewidth=1, linestyle=":")
        panels[0][2].annotate(
            "chance", (0.99, self.rho), xycoords=("axes fraction", "data"), xytext=(0, -10),
            textcoords="offset points", fontsize=8, ha="right",
        )  # fmt: skip
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(domains), fontsize=8, frameon=False)
        return figure

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule above."""
        found = {
            (domain, feature): _median(records, domain, feature)
            for domain in domains_of([record.cell for record in records])
            for feature in _FEATURES
        }
        below = any(high < _STRONG for _, _, high in found.values())
        above = all(low >= _STRONG for _, low, _ in found.values())
        return Verdict(False if below else True if above else None, self._sentence(records, found))

    def _sentence(self, records: Sequence[Record], found: dict[tuple[str, str], Interval]) -> str:
        parts = []
        for domain in dict.fromkeys(domain for domain, _ in found):
            figures = ", ".join(f"{_FEATURES[feature]} {_told(found[domain, feature])}" for feature in _FEATURES)
            line, share = (_values(records, domain, name, "mlp") for name in ("pearson", "overlap"))
            parts.append(
                f"{domain} (n={len(share)} prompts) {figures}; Pearson's, FFN output, {_upper(line).nanmean():.2f}; of "
                f"the {self.rho:.0%} of rows whose FFN output drifted most V finds {_upper(share).nanmean():.0%}"
            )
        return (
            "Spearman's correlation within a step, median over the layers above the first, with a 95% interval over "
            f"prompts: {'. '.join(parts)}. By chance it would find {self.rho:.0%}."
        )


def correlations(steps: Iterator[Snapshot], rho: float) -> list[dict[str, Any]]:
    """For each sequence: each measure of each feature by layer, averaged over the steps."""
    sums: dict[int, list[Tensor]] = {}
    before: Snapshot | None = None
    for now in steps:
        if before is not None:
            for row, active in enumerate(now.active):
                if active:
                    sums.setdefault(row, []).append(_step(before, now, row, rho))
        before = now
    return [_averaged(sums[row]) for row in sorted(sums)]


def _step(before: Snapshot, now: Snapshot, row: int, rho: float) -> Tensor:
    """[measures, features, L] of one sequence at one step, over its response."""
    response = slice(now.prompt[row], now.length[row])

    def moved(name: str) -> Tensor:
        new, old = (getattr(s, name)[:, row, response] for s in (now, before))
        return drift(new.flatten(0, 1), old.flatten(0, 1), "cosine").view(new.shape[:2])

    value, count = moved("v"), int((now.length[row] - now.prompt[row]) * rho)
    features = [moved(name) for name in _FEATURES]
    return torch.stack([
        torch.stack([spearman(value, f) for f in features]),
        torch.stack([pearson(value, f) for f in features]),
        torch.stack([overlap(value, f, count) for f in features]),
    ]).cpu()  # fmt: skip


def _averaged(steps: list[Tensor]) -> dict[str, Any]:
    mean = torch.stack(steps).nanmean(0)
    return {
        "steps": len(steps),
        **{
            measure: {name: _listed(mean[m, f]) for f, name in enumerate(_FEATURES)}
            for m, measure in enumerate(_MEASURES)
        },
    }


def _listed(values: Tensor) -> list[float | None]:
    """As JSON: None for NaN."""
    return [round(v, 6) if v == v else None for v in values.tolist()]


def _values(records: Sequence[Record], domain: str, measure: str, feature: str) -> Tensor:
    """[prompts, L] of a domain, NaN where a correlation is not defined."""
    lines = [
        [torch.nan if v is None else v for v in prompt[measure][feature]]
        for record in records
        if DOMAINS[record.cell["task"]] == domain
        for prompt in record.result["prompts"]
    ]
    return torch.tensor(lines, dtype=torch.float64)


def _median(records: Sequence[Record], domain: str, feature: str) -> Interval:
    """The median over the layers above the first of the mean over prompts, and its interval."""
    values = _upper(_values(records, domain, "spearman", feature))
    return bootstrap(values, lambda sample: sample.nanmean(1).quantile(0.5, dim=1))


def _upper(values: Tensor) -> Tensor:
    """The layers above the first of values [prompts, L], where there are any."""
    return values[:, 1:] if values.shape[1] > 1 else values


def _told(interval: Interval) -> str:
    value, low, high = interval
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _draw(axis: Axes, records: Sequence[Record], domains: Sequence[str], measure: str) -> None:
    from dkv.lab.study.panels import COLOURS, MARKS, layer_axis

    for number, domain in enumerate(domains):
        for feature, line in (("mlp", "-"), ("attn", "--")):
            mean = _values(records, domain, measure, feature).nanmean(0).tolist()
            label, filled = f"{domain}: {_FEATURES[feature]}", "full" if feature == "mlp" else "none"
            axis.plot(
                range(len(mean)), mean, line, color=COLOURS[number % 4], marker=MARKS[number % 4], label=label,
                fillstyle=filled, markersize=5, linewidth=1.4,
            )  # fmt: skip
    axis.set_ylim(min(0.0, axis.get_ylim()[0]), 1.03)
    layer_axis(axis)
