"""Which kp, kr and rho serve dllm-cache best at length: time, memory and fidelity.

Time and memory: random weights, a prompt that grows before a response of 256 positions, composed of sampled steps as in
`dkv.lab.study.steps`. Since kp and kr only say how often a kind of step comes, the kinds are taken once for each length
and rho (a cell), and every kp and kr is composed of them; no cache, taken in turn with them, is in the same cell.

Fidelity: the embedded model on the prompts of `lookup` from 256 tokens on, which reach 1,126: whether the text is that
of no cache, whether it is right, and, held to the canvas of no cache, which candidates differ
(`dkv.lab.study.fidelity`). The model holds 2,048 positions; at longer ones fidelity is taken to be that of these
prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dkv.lab.common.agreement import agreement
from dkv.lab.common.charts import Bar, Chart, Panel, Series
from dkv.lab.common.grouping import grouped
from dkv.lab.eval.statistics import Difference, Share
from dkv.lab.study.accuracy import percent
from dkv.lab.study.base import Cell, Effort, Record, Verdict
from dkv.lab.study.context import Kit
from dkv.lab.study.fidelity import Held, examples_of, follow, free
from dkv.lab.study.runs import settings_for
from dkv.lab.study.steps import SHAPE, Sample, compose, held_bytes, outline, rounds_at, side_by_side
from dkv.layers.transformer import Transformer
from dkv.tiny import TASKS, Example

__all__ = ["ENOUGH", "NEAR", "Found", "LengthParams", "Params", "found_in"]

NEAR = 1.1
"""Times the least seconds: what counts as near the best."""

ENOUGH = 20
"""Examples below which fidelity is too uncertain for a verdict."""

_RESPONSE = 256
_FULL = (10, 25, 50, 100), (2, 4, 7, 16), (0.0, 0.1, 0.25, 0.5)
_QUICK = (10, 50), (2, 7), (0.0, 0.25)
"""kp, kr and rho to try."""
_FIDELITY = ("lookup", 256)
_MOST = 28  # so many prompts of `lookup` have 256 tokens or more


@dataclass(frozen=True)
class Params:
    """dllm-cache's settings."""

    kp: int
    kr: int
    rho: float

    @property
    def spec(self) -> str:
        """As `make_cache` takes it."""
        return f"dllm-cache:kp={self.kp},kr={self.kr},rho={self.rho:g}"

    def __str__(self) -> str:
        return f"kp {self.kp}, kr {self.kr}, rho {self.rho:g}"


PUBLISHED = Params(50, 7, 0.25)


@dataclass(frozen=True)
class Found:
    """What the records tell."""

    seconds: dict[int, dict[Params, float]]  # by positions and setting
    none: dict[int, dict[float, float]]  # no cache's in the same cells, by positions and rho
    fidelity: dict[Params, Any]  # results by setting

    def speedup(self, positions: int, params: Params) -> float:
        """No cache's seconds over its own, of one cell."""
        return self.none[positions][params.rho] / self.seconds[positions][params]

    @property
    def faithful(self) -> list[Params]:
        """Settings that are not shown to lose: against the most faithful one, on the same prompts, the 95% interval of
        the difference in texts that are no cache's reaches 0."""
        if not self.fidelity:
            return []
        best = max(self.fidelity, key=lambda params: sum(self.fidelity[params]["same"]))
        return [params for params in self.fidelity if self.against(params, best).interval[1] >= 0]

    def against(self, params: Params, other: Params) -> Difference:
        """Texts that are no cache's: this setting's less the other's."""
        return Difference.of(self.fidelity[params]["same"], self.fidelity[other]["same"])

    def good(self, positions: int) -> list[Params]:
        """Of the faithful settings, those within NEAR of the fastest."""
        times = {params: s for params, s in self.seconds[positions].items() if params in self.faithful}
        return [params for params, s in times.items() if s <= NEAR * min(times.values())]


class LengthParams:
    """Rule: of the settings that are not shown to lose fidelity (see `Found.faithful`) those within 10% of the fastest
    one are good. The advice holds if at the longest length one of them has kp of 50 or more, kr of 7 or less and rho
    0.25; with fewer than 20 prompts nothing can be told."""

    name = "length-params"
    claim = (
        "On long sequences a large kp, a small kr and rho 0.25 serve best (dLLM-Cache, arXiv 2506.06295: kp 50 or 100, "
        "kr 8 or less, rho 0.25 in nearly all published settings of LLaDA; kp 100, kr 8 on HotpotQA's long prompts)."
    )

    def cells(self, effort: Effort) -> Sequence[Cell]:
        """Cost by length and rho; fidelity by setting, one changed at a time."""
        kps, krs, rhos = _QUICK if effort.quick else _FULL
        lengths = (1024, 4096) if effort.quick else (1024, 4096, 8192, 16384)
        cost = {"part": "cost", "shape": SHAPE, "gen": _RESPONSE, "kp": list(kps), "kr": list(krs)}
        task, least = _FIDELITY
        count = min(effort.count, 4 if effort.quick else _MOST)
        fidelity = {"part": "fidelity", "task": task, "least": least, "count": count}
        return [
            *({**cost, "positions": positions, "rho": rho} for positions in lengths for rho in rhos),
            *({**fidelity, "kp": p.kp, "kr": p.kr, "rho": p.rho} for p in _one_changed(kps, krs, rhos)),
        ]

    def measure(self, kit: Kit, cells: Sequence[Cell]) -> Iterator[Record]:
        """Cost cell by cell; the fidelity of all settings together, prompt by prompt. Raises what loading raises."""
        for cell in cells:
            if cell["part"] == "cost":
                kit.tell(f"rho {cell['rho']:g} at {cell['positions']:,} positions")
                yield Record(cell, _cost(kit.random_weights(cell["shape"]), cell))
        yield from _fidelity(kit, [cell for cell in cells if cell["part"] == "fidelity"])

    def chart(self, records: Sequence[Record]) -> Chart:
        """Speed-up over the positions beside fidelity, of the settings whose fidelity was measured, else of all."""
        found = found_in(records)
        lengths = sorted(found.seconds)
        settings = list(found.fidelity) or list(found.seconds[lengths[0]] if lengths else ())
        timed = {p: [n for n in lengths if p in found.seconds[n]] for p in settings}
        series = [Series(str(p), [found.speedup(n, p) for n in some], some) for p, some in timed.items() if some]
        results = found.fidelity.values()
        texts = [Share(sum(r["same"]), len(r["same"])) for r in results]
        # Candidates of one text are not independent: no interval.
        names = list(map(str, settings))
        other = [Bar(n, 100 * r["differ"] / max(r["compared"], 1), names[n]) for n, r in enumerate(results)]
        same = [Bar(n, 100 * s.value, names[n], ends=percent(s.interval)) for n, s in enumerate(texts)]
        x, y = "positions (prompt, and 256 of response)", "speed-up over no cache (times)"
        panels = [
            Panel(x, y, series=series, log_x=lengths, log_y="", legend=True),
            Panel("texts as without a cache (%), 95% interval", bars=same, categories=names),
            Panel("candidates that differ, on the same canvas (%)", bars=other, categories=names),
        ]
        title = "dllm-cache at length: settings one at a time around kp 50, kr 7, rho 0.25"
        return Chart(title, panels, 3, size=(4.4, 4.8))

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        found = found_in(records)
        if not found.seconds or not any(found.good(positions) for positions in found.seconds):
            return Verdict(None, "Time or fidelity was not measured.")
        told = []
        for n in sorted(found.seconds):
            good = " / ".join(f"{params} ({found.speedup(n, params):.1f}x)" for params in found.good(n))
            told.append(f"at {n:,} positions {good}")
        count = len(found.fidelity[found.faithful[0]]["same"])
        advised = any(p.kp >= 50 and p.kr <= 7 and p.rho == 0.25 for p in found.good(max(found.seconds)))
        sentence = f"Not shown to lose, and within 10% of the fastest such: {'; '.join(told)}. {_losses(found)}"
        return Verdict(advised if count >= ENOUGH else None, sentence)


def _one_changed(kps: Sequence[int], krs: Sequence[int], rhos: Sequence[float]) -> list[Params]:
    """The published setting, and those that differ from it in one value."""
    kp, kr, rho = PUBLISHED.kp, PUBLISHED.kr, PUBLISHED.rho
    tried = [Params(n, kr, rho) for n in kps] + [Params(kp, n, rho) for n in krs] + [Params(kp, kr, n) for n in rhos]
    return list(dict.fromkeys([PUBLISHED, *tried]))


def _cost(model: Transformer, cell: Cell) -> dict[str, Any]:
    """seconds: by kp and kr; none_seconds; cache_bytes; peak_bytes, none_peak_bytes: beside the weights."""
    positions, gen = cell["positions"], cell["gen"]
    tried = [Params(kp, kr, cell["rho"]) for kp in cell["kp"] for kr in cell["kr"]]
    none, *outlines = (
        outline(model.config, settings_for(spec, gen, gen), positions - gen)
        for spec in ("none", *(p.spec for p in tried))
    )
    kinds: dict[Any, Sample] = {sample.kind: sample for found in outlines for sample in found.samples}
    taken = side_by_side(model, none.samples, list(kinds.values()), positions, rounds_at(positions))
    return {
        "seconds": [[p.kp, p.kr, compose(o.counts, taken.points)] for p, o in zip(tried, outlines, strict=True)],
        "none_seconds": compose(none.counts, taken.points),
        "cache_bytes": held_bytes(model, tried[0].spec, positions - gen, gen),
        "peak_bytes": taken.peak,
        "none_peak_bytes": taken.none_peak,
    }


def _fidelity(kit: Kit, cells: Sequence[Cell]) -> Iterator[Record]:
    """Cells that ask the same prompts together: no cache is run once for all of them."""
    alike = grouped(cells, lambda cell: (cell["task"], cell["least"], cell["count"]))
    for (task, least, count), group in alike.items():
        found: list[list[tuple[bool, bool, bool, float, Held]]] = [[] for _ in group]
        examples = examples_of(kit.lm(), task, least, count)
        for number, example in enumerate(examples):
            kit.tell(f"fidelity: prompt {number + 1} of {len(examples)}")
            for told, mine in zip(_compare(kit, example, [_params(cell).spec for cell in group]), found, strict=True):
                mine.append(told)
        yield from (Record(cell, _summed(mine)) for cell, mine in zip(group, found, strict=True))


def _params(cell: Cell) -> Params:
    return Params(cell["kp"], cell["kr"], cell["rho"])


def _compare(kit: Kit, example: Example, specs: Sequence[str]) -> Iterator[tuple[bool, bool, bool, float, Held]]:
    """Of each cache on one prompt: whether the text is no cache's, whether it is right, whether no cache's is, the
    share of equal tokens, and what it would have said otherwise on the canvas of no cache."""
    lm, check = kit.lm(), TASKS[example.task].check
    none, others = follow(lm, example.asked, example.gen_length, specs)
    for spec, held in zip(specs, others, strict=True):
        own = free(lm, example.asked, example.gen_length, spec)
        right = check(example, own.text or ""), check(example, none.text or "")
        yield own.text == none.text, *right, agreement(own, none), held


def _summed(found: Sequence[tuple[bool, bool, bool, float, Held]]) -> dict[str, Any]:
    """same, right, none_right, agreement: by prompt; differ, compared: candidates, summed."""
    *flags, held = (list(column) for column in zip(*found, strict=True))
    by_prompt = dict(zip(("same", "right", "none_right", "agreement"), flags, strict=True))
    return {**by_prompt, "differ": sum(h.differ for h in held), "compared": sum(h.compared for h in held)}


def found_in(records: Sequence[Record]) -> Found:
    """What records tell."""
    found = Found({}, {}, {})
    for cell, result in ((record.cell, record.result) for record in records):
        if cell["part"] == "fidelity":
            found.fidelity[_params(cell)] = result
            continue
        mine = found.seconds.setdefault(cell["positions"], {})
        mine |= {Params(kp, kr, cell["rho"]): seconds for kp, kr, seconds in result["seconds"]}
        found.none.setdefault(cell["positions"], {})[cell["rho"]] = result["none_seconds"]
    return found


def _losses(found: Found) -> str:
    """Fidelity of the most faithful and the published setting, with counts and intervals."""
    best = max(found.fidelity, key=lambda params: sum(found.fidelity[params]["same"]))
    parts = []
    for params in dict.fromkeys((best, PUBLISHED)):
        if params in found.fidelity:
            result = found.fidelity[params]
            texts = Share(sum(result["same"]), len(result["same"]))
            right = Difference.of(result["right"], result["none_right"])
            parts.append(
                f"{params}: {texts} texts as without a cache, right answers {right} against none, "
                f"{result['differ'] / max(result['compared'], 1):.1%} of candidates differ on the same canvas"
            )
    return "Fidelity on prompts of 256 tokens or more: " + "; ".join(parts) + "."
