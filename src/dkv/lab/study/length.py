"""How cost, speed-up and memory of the caches grow with the length, on random weights of a small LLaDA.

A sequence can be longer in two ways: the prompt grows before a response of 256 positions, or both grow, a quarter of
the positions being the response. One token a step; every position of the response is filled.

A whole generation's seconds are composed of sampled steps, as `dkv.lab.study.steps` says: the loop is run without a
network to count the steps of each kind, a few of each kind are taken for real, and every other step is read off a line
between those. No cache is composed in the same way, from steps taken in turn with the cache's own: speed-ups compare
times of one cell only. A test compares compositions with whole generations."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dkv.lab.bench.exponents import Exponent, fit_exponent
from dkv.lab.bench.shapes import SHAPES
from dkv.lab.common.charts import Chart, Panel, Series, with_unit
from dkv.lab.study.base import Cell, Effort, Record, Verdict
from dkv.lab.study.context import Kit
from dkv.lab.study.runs import settings_for
from dkv.lab.study.steps import SHAPE, Outline, compose, held_bytes, outline, rounds_at, side_by_side
from dkv.layers.transformer import Transformer

__all__ = ["GREW", "LengthCurve", "LengthStudy", "lines_of"]

GREW = 1.1
"""Times its speed-up at the shortest length that the longest must show to have grown."""

POLICIES = (
    "none", "dkv-decode", "dkv-greedy", "dkv-pd", "dllm-cache:kp=50,kr=7,rho=0.25", "fast-prefix", "fast-dual",
)  # fmt: skip
FAMILIES = {"dkv": "dKV-Cache", "dllm": "dLLM-Cache", "fast": "Fast-dLLM"}

_RESPONSE = 256
_SHARE = 4
_BLOCK = 32
_GROWING = {"prompt": "the prompt grows, 256 positions of response", "both": "both grow, a quarter is response"}


@dataclass(frozen=True)
class LengthCurve:
    """How a policy's cost and speed-up go with the length."""

    policy: str
    growing: str  # "prompt" or "both"
    points: tuple[tuple[int, Any], ...]  # (positions, result), by positions

    @property
    def positions(self) -> list[int]:
        """Of each point."""
        return [at for at, _ in self.points]

    @property
    def speedups(self) -> list[float]:
        """No cache's seconds over its own, at each point."""
        return [result["none_seconds"] / result["seconds"] for _, result in self.points]

    def results(self, name: str) -> list[Any]:
        """A field of each point's result."""
        return [result[name] for _, result in self.points]

    @property
    def exponent(self) -> Exponent | None:
        """Of its seconds in the positions."""
        return fit_exponent(self.positions, self.results("seconds"))

    @property
    def grew(self) -> bool:
        """Whether the speed-up at the longest length is that at the shortest times GREW at least."""
        return self.speedups[-1] >= GREW * self.speedups[0]

    @property
    def short(self) -> str:
        """The policy's name alone."""
        return self.policy.partition(":")[0]

    def __str__(self) -> str:
        times, saved = self.speedups, self.results("llada_saved")
        return f"{self.short} {times[0]:.1f}x to {times[-1]:.1f}x ({saved[0]:.1f} to {saved[-1]:.1f})"


class LengthStudy:
    """Rule: a policy's speed-up grows if at the longest length it is at least 1.1 times that at the shortest; a
    family's, if all its policies' do; the claim holds if every family's does, whichever way the length grows."""

    name = "length"
    claim = (
        "The speed-up grows with the length: dKV-Cache (arXiv 2505.15781) claims more on longer sequences, dLLM-Cache "
        "(arXiv 2506.06295) its largest saving, 9.1 times the operations, on the long prompts of HotpotQA."
    )

    def cells(self, effort: Effort) -> Sequence[Cell]:
        """Each policy at each length, grown in each way."""
        prompts = (1024, 4096) if effort.quick else (1024, 2048, 4096, 8192, 16384)
        both = (4096,) if effort.quick else prompts[1:]  # at 1,024 the two ways are one
        sizes = [*((n, _RESPONSE) for n in prompts), *((n, n // _SHARE) for n in both)]
        return [
            {"shape": SHAPE, "positions": n, "gen": gen, "block": block, "cache": cache}
            for n, gen in sizes
            for cache in POLICIES
            for block in (_BLOCK if cache.startswith("fast-") else gen,)
        ]

    def measure(self, kit: Kit, cells: Sequence[Cell]) -> Iterator[Record]:
        """Count, sample, compose. Raises what making the model raises."""
        bases: dict[tuple[int, int, int], Outline] = {}
        for cell in cells:
            kit.tell(f"{cell['cache']} at {cell['positions']:,} positions, {cell['gen']:,} of them response")
            model, size = kit.random_weights(cell["shape"]), (cell["positions"], cell["gen"], cell["block"])
            if size not in bases:
                bases = {size: _outline(model, {**cell, "cache": "none"})}
            yield Record(cell, _result(model, cell, bases[size]))

    def chart(self, records: Sequence[Record]) -> Chart:
        """Seconds, speed-up, operations saved and memory over the positions, a line for each way of growing."""
        lines = lines_of(records)
        panels: list[Panel] = []
        for way in dict.fromkeys(line.growing for line in lines):
            some = [line for line in lines if line.growing == way]
            cached = [line for line in some if line.policy != "none"]
            panels += [
                _panel(some, "whole generation (processor time)", f"{_GROWING[way]}; legend: exponent", "s",
                       lambda line: line.results("seconds"), exponents=True),
                _panel(cached, "speed-up over no cache (times)", "speed-up", "", lambda line: line.speedups),
                _panel(cached, "operations saved (times)", "counted, on LLaDA-8B's shape", "",
                       lambda line: line.results("llada_saved")),
                _panel(some, "most memory held, beside the weights", "peak memory of a step, cache included", "B",
                       lambda line: line.results("peak_bytes")),
            ]  # fmt: skip
        title = "Cost by length: a small LLaDA with random weights, float32, composed of sampled steps"
        return Chart(title, panels, 4, size=(4.25, 4.4), looks=list(dict.fromkeys(line.short for line in lines)))

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        lines = [line for line in lines_of(records) if line.policy != "none" and len(line.points) > 1]
        if not lines:
            return Verdict(None, "Too few lengths were measured to tell.")
        parts = [part for growing in _GROWING if (part := _sentence(growing, lines))]
        told = f"In brackets the operations saved on LLaDA-8B's shape, counted. {_memory(lines)}"
        return Verdict(all(line.grew for line in lines), " ".join((*parts, told)))


def _outline(model: Transformer, cell: Cell) -> Outline:
    settings = settings_for(cell["cache"], cell["gen"], cell["block"])
    return outline(model.config, settings, cell["positions"] - cell["gen"])


def _result(model: Transformer, cell: Cell, none: Outline) -> dict[str, Any]:
    """seconds, none_seconds: composed; saved: operations of no cache over its own, llada_saved: of LLaDA-8B's shape;
    rows: through an MLP, averaged over layers; cache_bytes; peak_bytes, none_peak_bytes: beside the weights, cache
    included; steps_taken: samples of both."""
    mine = none if cell["cache"] == "none" else _outline(model, cell)
    taken = side_by_side(model, none.samples, mine.samples, cell["positions"], rounds_at(cell["positions"]))
    large = SHAPES["llada-8b"]
    return {
        "seconds": compose(mine.counts, taken.points),
        "none_seconds": compose(none.counts, taken.points),
        "saved": none.flops_of(model.config) / mine.flops_of(model.config),
        "llada_saved": none.flops_of(large) / mine.flops_of(large),
        "rows": mine.rows,
        "cache_bytes": held_bytes(model, cell["cache"], cell["positions"] - cell["gen"], cell["gen"]),
        "peak_bytes": taken.peak,
        "none_peak_bytes": taken.none_peak,
        "steps_taken": sum(len(points) for points in taken.points.values()),
    }


def _memory(lines: Sequence[LengthCurve]) -> str:
    """What the caches keep at the longest length, and the peak of a step over that of no cache."""
    longest = max(line.positions[-1] for line in lines)
    told = {}
    for line in lines:
        at, result = line.points[-1]
        if at == longest:
            peak, base = result["peak_bytes"], result["none_peak_bytes"]
            share = f", peak {peak / base:.2f} times" if peak and base else ""
            told[line.short] = f"{line.short} {with_unit(result['cache_bytes'], 'B')}{share}"
    return f"Kept at {longest:,} positions, and the peak of a step over that of no cache: {'; '.join(told.values())}."


def lines_of(records: Sequence[Record]) -> list[LengthCurve]:
    """A line for each policy and way of growing, in the order in which they come."""
    found: dict[tuple[str, str], dict[int, Any]] = {}
    for growing in _GROWING:
        for record in records:
            cell = record.cell
            if cell["gen"] == (_RESPONSE if growing == "prompt" else cell["positions"] // _SHARE):
                found.setdefault((growing, cell["cache"]), {})[cell["positions"]] = record.result
    return [LengthCurve(policy, growing, tuple(sorted(points.items()))) for (growing, policy), points in found.items()]


def _family(line: LengthCurve) -> str:
    """The paper's name for the family."""
    return FAMILIES[line.policy.partition("-")[0]]


def _sentence(growing: str, lines: Sequence[LengthCurve]) -> str:
    """What each family's speed-up does, with the figures."""
    some = [line for line in lines if line.growing == growing]
    if not some:
        return ""
    ends = f"{some[0].positions[0]:,} to {some[0].positions[-1]:,} positions"
    told = []
    for family in dict.fromkeys(_family(line) for line in some):
        mine = [line for line in some if _family(line) == family]
        grew = statistics.fmean(line.grew for line in mine)
        word = "grows" if grew == 1 else "does not grow" if grew == 0 else "grows in part"
        told.append(f"{family} {word}: {', '.join(map(str, mine))}")
    where = "the prompt grows" if growing == "prompt" else "prompt and response grow"
    return f"Where {where} ({ends}), the speed-up of {'; '.join(told)}."


def _panel(
    lines: Sequence[LengthCurve],
    y: str,
    title: str,
    unit: str,
    values: Callable[[LengthCurve], Sequence[float | None]],
    exponents: bool = False,
) -> Panel:
    """A line for each policy, both scales logarithmic; in the legend the fitted exponents, where asked for."""
    series = []
    for line in lines:
        fitted = line.exponent if exponents else None
        name = line.short if fitted is None else f"{line.short}: {fitted.value:.2f}"
        series.append(Series(name, values(line), line.positions, like=line.short))
    ticks = sorted({x for line in lines for x in line.positions})
    level = {1.0: ""} if y.startswith("speed-up") else {}
    x = "positions (prompt and response)"
    return Panel(x, y, title, series=series, log_x=ticks, log_y=unit, levels=level, legend=True)
