"""V-verify: does the drift of a row's value vector tell which rows' features drifted?

dLLM-Cache recomputes, between refreshes, the share rho of the response rows whose values drifted most, on the finding
that this drift goes with that of the attention and feed-forward outputs, which are what it keeps. Only the order of
the rows matters for that choice, so it is the rank correlation, within a step, that decides here; a few rows that drift
far (the one just decoded, above all) are enough for a high Pearson correlation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dkv.lab.common.charts import Chart, Panel, Series
from dkv.lab.study.base import Cell, Effort, Record, Verdict
from dkv.lab.study.context import Kit
from dkv.lab.study.domains import domains_of, listed, moved, probed, task_cells, values_of
from dkv.lab.study.layer_probes import Snapshot
from dkv.lab.study.verdicts import Interval, all_of, at_least, bootstrap

__all__ = ["VVerify", "correlations", "overlap", "pearson", "ranks", "spearman"]

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
        return probed(kit, cells, self.name, lambda steps: correlations(steps, self.rho))

    def chart(self, records: Sequence[Record]) -> Chart:
        """Each measure over the layers, a line for each domain and feature."""
        levels = {"spearman": {_STRONG: "strong"}, "overlap": {self.rho: "chance"}}
        label = "mean over steps and prompts (no unit)"
        panels = [
            Panel("layer", label, title, series=_series(records, measure), levels=levels.get(measure, {}), high=1.03)
            for measure, title in _MEASURES.items()
        ]
        return Chart("Drift of V between steps against drift of what a layer adds", panels, 3, size=(4.6, 3.6))

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule above."""
        found = {(d, feature): _median(records, d, feature) for d in domains_of(records) for feature in _FEATURES}
        held = all_of(at_least(interval, _STRONG) for interval in found.values())
        return Verdict(held, self._sentence(records, found))

    def _sentence(self, records: Sequence[Record], found: dict[tuple[str, str], Interval]) -> str:
        parts = []
        for domain in dict.fromkeys(domain for domain, _ in found):
            figures = ", ".join(f"{_FEATURES[feature]} {_told(found[domain, feature])}" for feature in _FEATURES)
            line, share = (values_of(records, domain, name, "mlp") for name in ("pearson", "overlap"))
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

    def drift(name: str) -> Tensor:
        return moved(getattr(now, name)[:, row, response], getattr(before, name)[:, row, response])

    value, count = drift("v"), int((now.length[row] - now.prompt[row]) * rho)
    features = [drift(name) for name in _FEATURES]
    return torch.stack([
        torch.stack([spearman(value, f) for f in features]),
        torch.stack([pearson(value, f) for f in features]),
        torch.stack([overlap(value, f, count) for f in features]),
    ]).cpu()  # fmt: skip


def _averaged(steps: list[Tensor]) -> dict[str, Any]:
    mean = torch.stack(steps).nanmean(0)
    by_measure = {
        measure: {name: listed(mean[m, f], ".6f") for f, name in enumerate(_FEATURES)}
        for m, measure in enumerate(_MEASURES)
    }
    return {"steps": len(steps), **by_measure}


def _median(records: Sequence[Record], domain: str, feature: str) -> Interval:
    """The median over the layers above the first of the mean over prompts, and its interval."""
    values = _upper(values_of(records, domain, "spearman", feature))
    return bootstrap(values, lambda sample: sample.nanmean(1).quantile(0.5, dim=1))


def _upper(values: Tensor) -> Tensor:
    """The layers above the first of values [prompts, L], where there are any."""
    return values[:, 1:] if values.shape[1] > 1 else values


def _told(interval: Interval) -> str:
    value, low, high = interval
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _series(records: Sequence[Record], measure: str) -> list[Series]:
    series = []
    for domain in domains_of(records):
        for feature, line in (("mlp", "-"), ("attn", "--")):
            mean = values_of(records, domain, measure, feature).nanmean(0).tolist()
            name, hollow = f"{domain}: {_FEATURES[feature]}", feature == "attn"
            series.append(Series(name, mean, range(len(mean)), like=domain, style=line, hollow=hollow))
    return series


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation of x and y [..., N]: [...]; NaN where one of them is constant. float64, because drifts span
    many orders."""
    a, b = (v.double() - v.double().mean(-1, keepdim=True) for v in (x, y))
    scale = a.norm(dim=-1) * b.norm(dim=-1)
    constant = (x == x[..., :1]).all(-1) | (y == y[..., :1]).all(-1)
    return torch.where(constant, torch.nan, (a * b).sum(-1) / scale)


def ranks(x: Tensor) -> Tensor:
    """Ranks of x [..., N] from 0, ties at the mean of theirs, [..., N] float64."""
    below = (x[..., None, :] < x[..., :, None]).sum(-1)
    equal = (x[..., None, :] == x[..., :, None]).sum(-1)
    return below.double() + (equal.double() - 1) / 2


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's rank correlation of x and y [..., N]: [...]; NaN where one of them is constant."""
    return pearson(ranks(x), ranks(y))


def overlap(x: Tensor, y: Tensor, count: int) -> Tensor:
    """Of the `count` highest of y [..., N], the share that is among the `count` highest of x [..., N]; ties go to the
    lowest position, as in V-verify. By chance it is count / N."""
    return (_highest(x, count) & _highest(y, count)).double().sum(-1) / count


def _highest(x: Tensor, count: int) -> Tensor:
    order = x.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(x, dtype=torch.bool).scatter_(-1, order, True)
