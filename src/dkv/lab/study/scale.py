"""Do the caches hold up on models of other sizes, and of the other architecture?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from dkv.lab.common.charts import Chart
from dkv.lab.common.grouping import grouped
from dkv.lab.study.accuracy import NONE, Policy, accuracy_chart, cells_of, measured, pool, pools_of
from dkv.lab.study.base import Cell, Effort, Record, Verdict
from dkv.lab.study.context import Kit
from dkv.lab.study.verdicts import all_of, kept
from dkv.tiny import MODELS

__all__ = ["Scale"]

_MAIN = Policy("dkv-decode:refresh=4")
_POLICIES = (NONE, _MAIN, Policy("dkv-decode:refresh=8"), Policy("dllm-cache"))


class Scale:
    """models: what is measured beside the studied model; None = the embedded ones.

    Rule, on pairs: dkv-decode at refresh 4 against no cache, model by model. Held if every lower bound is at least -2
    points; not if one upper bound is below that. With a single model there is nothing to tell.
    """

    name: ClassVar[str] = "scale"
    claim: ClassVar[str] = (
        "The caches carry over between models (arXiv 2505.15781: LLaDA-8B-Instruct, GSM8K, 77.56 to 78.85 at refresh "
        "8; Dream-Base-7B, GSM8K, 76.88 to 76.57 at refresh 4)."
    )

    def __init__(self, models: Sequence[str] | None = None) -> None:
        self._models = tuple(MODELS) if models is None else tuple(models)

    def cells(self, effort: Effort) -> Sequence[Cell]:
        """Each model, the studied one first, under no cache and three others."""
        models = dict.fromkeys((effort.model, *self._models))
        return [{"model": model, **cell} for model in models for cell in cells_of(_POLICIES, effort)]

    def measure(self, kit: Kit, cells: Sequence[Cell]) -> Iterator[Record]:
        """Model by model. A result also says how large its model is."""
        for record in measured(kit, cells):
            config = kit.lm(record.cell["model"]).model.config
            shape = {"family": config.family, "layers": config.layers, "width": config.width}
            yield Record(record.cell, {**record.result, **shape})

    def chart(self, records: Sequence[Record]) -> Chart:
        """A series for each model over the caches."""
        series = {}
        for model, mine in _by_model(records).items():
            result, known = mine[0].result, pools_of(mine)
            label = f"{model} ({result['family']}, {result['layers']} layers of {result['width']})"
            series[label] = [known[policy] for policy in _POLICIES]
        names = [policy.cache.replace(":refresh=", " ") for policy in _POLICIES]
        return accuracy_chart("Models", "cache", names, series, "")

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        found = {name: pool(mine, _MAIN).less(pool(mine, NONE)) for name, mine in _by_model(records).items()}
        told = "; ".join(f"{model}: {difference}" for model, difference in found.items())
        sentence = f"dkv-decode at refresh 4 against no cache, {told}."
        if len(found) < 2:
            return Verdict(None, f"There is only one model here. {sentence}")
        return Verdict(all_of(kept(difference) for difference in found.values()), sentence)


def _by_model(records: Sequence[Record]) -> dict[str, list[Record]]:
    return grouped(records, lambda record: record.cell["model"])
