"""The plots of a benchmark, as charts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dkv.lab.bench.exponents import growths
from dkv.lab.bench.grid import AUTOREGRESSIVE, REFERENCE
from dkv.lab.bench.rows import BenchRow, RepeatSpread, spread_of
from dkv.lab.common.charts import Bar, Chart, Panel, Series, with_unit
from dkv.lab.common.grouping import grouped

__all__ = ["Plot", "plots_of"]


@dataclass(frozen=True)
class Plot:
    """A chart, the name of its file, and what it shows, in a sentence or two."""

    name: str
    caption: str
    chart: Chart


def plots_of(rows: Sequence[BenchRow]) -> Iterator[Plot]:
    """For each model, dtype and batch: throughput, growth of the cost, what of the FLOPs saved became time, distance
    from the roofline, operations, and memory; those for which there is something to show."""
    groups = grouped(rows, lambda row: replace(row.cell.point, prompt=0, gen=0, block=0, steps=0))
    for number, group in enumerate(groups.values()):
        cell = group[0].cell
        where = f"{cell.model}, {cell.numbers}, batch {cell.batch}"
        for name, caption, chart in _KINDS:
            some = [row for row in group if row.result.seconds or name in _UNTIMED]
            if some:
                drawn = replace(chart(some, where), looks=list(_by_cache(rows)))
                yield Plot(f"{name}-{number}", f"{where}: {caption}", drawn)


def _by_cache(rows: Sequence[BenchRow]) -> Mapping[str, list[BenchRow]]:
    """Rows by cache, in the order in which they come."""
    return grouped(rows, lambda row: row.cell.cache)


def _by_prompt(rows: Sequence[BenchRow], title: str, panel: Callable[[Sequence[BenchRow]], Panel]) -> Chart:
    """A panel for each prompt length, side by side."""
    prompts = sorted(grouped(rows, lambda row: row.cell.prompt).items())
    panels = [replace(panel(some), title=f"prompt {prompt}") for prompt, some in prompts]
    panels[1:] = [replace(one, y="") for one in panels[1:]]
    columns = min(len(prompts), 3)
    return Chart(title, panels, columns, size=(4.6 if columns > 1 else 6.9, 3.6), shared=True)


def _lines(
    rows: Sequence[BenchRow],
    title: str,
    spread: Callable[[BenchRow], RepeatSpread | None],
    label: str,
    unit: str,
    fitted: bool = False,
) -> Chart:
    """A line for each cache over the response length, both scales logarithmic, with the spread of the repeats. fitted:
    with the exponents in a legend of each panel's own, instead of one legend for all."""

    def panel(some: Sequence[BenchRow]) -> Panel:
        exponents = {g.cache: g.time for g in growths(some) if g.along == "gen" and fitted}
        series = []
        for cache, line in _by_cache(some).items():
            exponent = exponents.get(cache)
            name = cache if exponent is None else f"{cache}: {exponent.value:.2f}"
            ordered = sorted(line, key=lambda row: row.cell.gen)
            pairs = [(row.cell.gen, found) for row in ordered if (found := spread(row)) is not None]
            y, ends = [found.median for _, found in pairs], [(found.low, found.high) for _, found in pairs]
            series.append(Series(name, y, [gen for gen, _ in pairs], ends, like=cache))
        gens = sorted({row.cell.gen for row in some})
        return Panel("gen length (and steps)", label, series=series, log_x=gens, log_y=unit, legend=fitted)

    return _by_prompt(rows, title, panel)


def _throughput(rows: Sequence[BenchRow], title: str) -> Chart:
    return _lines(rows, title, lambda row: row.tokens_per_second, "tokens/s (to the end-of-text)", "")


def _time(rows: Sequence[BenchRow], title: str) -> Chart:
    return _lines(rows, title, lambda row: spread_of(row.result.cpu_seconds), "processor time", "s", fitted=True)


def _flops(rows: Sequence[BenchRow], title: str) -> Chart:
    return _lines(rows, title, lambda row: spread_of([row.result.flops]), "operations (FLOPs)", "")


def _saved(rows: Sequence[BenchRow], title: str) -> Chart:
    """Speed-up over the speed-up that the FLOPs alone would give, of the caches."""
    some = [row for row in rows if row.cell.cache not in (REFERENCE, AUTOREGRESSIVE)] or rows
    high = max(row.flops_saved for row in some)

    def panel(shown: Sequence[BenchRow]) -> Panel:
        series = [
            Series(cache, [None if row.cpu_speedup is None else row.cpu_speedup.median for row in mine],
                   [row.flops_saved for row in mine], style="")
            for cache, mine in _by_cache(shown).items()
        ]  # fmt: skip
        series.append(Series("", [1, high], [1, high], style="--", colour="#999999", mark=""))
        label = "processor time of no cache / own"
        return Panel("FLOPs of no cache / own", label, series=series, log_x=True, log_y="")

    return _by_prompt(some, title, panel)


def _roofline(rows: Sequence[BenchRow], title: str) -> Chart:
    """A bar for each cache: how many times longer than the roofline it takes."""
    caches, bars = _by_cache(rows), []
    for place, (cache, mine) in enumerate(caches.items()):
        ratios = [row.roofline.median for row in mine if row.roofline is not None]
        middle = statistics.median(ratios)
        bars.append(Bar(place, middle, cache, f"{middle:.1f}x", (min(ratios), max(ratios))))
    panel = Panel("wall-clock time / roofline time", bars=bars, categories=list(caches), limit=1)
    return Chart(title, [panel], size=(7.4, 0.42 * len(caches) + 0.3))


def _memory(rows: Sequence[BenchRow], title: str) -> Chart:
    """Two bars for each cache, at the longest prompt and response: what it keeps, and the most that was held."""
    cell = max((row.cell for row in rows), key=lambda c: (c.prompt + c.gen, c.gen))
    some = [row for row in rows if (row.cell.prompt, row.cell.gen) == (cell.prompt, cell.gen)]
    bars = [
        Bar(place + shift, size, row.cell.cache, with_unit(size, "B"), pale=pale, height=0.36)
        for place, row in enumerate(some)
        for shift, size, pale in ((-0.2, row.result.cache_bytes, False), (0.2, row.result.peak_bytes, True))
        if size is not None
    ]
    label = "dark: keys, values and features; pale: the most held at once, beside the weights"
    panel = Panel(label, bars=bars, categories=[row.cell.cache for row in some], unit_x="B")
    return Chart(f"{title}, prompt {cell.prompt}, gen {cell.gen}", [panel], size=(7.4, 0.6 * len(some) + 0.5))


_KINDS: tuple[tuple[str, str, Callable[[Sequence[BenchRow], str], Chart]], ...] = (
    ("throughput", "generated tokens a second, up to the end-of-text.", _throughput),
    ("time", "processor time of a whole generation; in the legend the fitted exponents.", _time),
    ("saved", "what of the FLOPs saved became time saved, a mark a length; on the dashed line all did.", _saved),
    (
        "roofline",
        "wall-clock time over roofline time; 1 is as fast as can be. Bars: the median over the lengths; lines: all.",
        _roofline,
    ),
    ("flops", "operations of a whole generation.", _flops),
    ("memory", "memory at the longest prompt and response.", _memory),
)
"""Name, caption and chart of each kind of plot."""

_UNTIMED = ("flops", "memory")
"""Those that need no times."""
