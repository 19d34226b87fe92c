"""What a cache's memory buys: keys and values alone or features besides, in bfloat16 or float32.

dllm-cache keeps what attention and feed-forward added to the stream besides keys and values; dkv-* and no cache keep
keys and values alone (this engine's attention reads them from the same buffers even without a cache, so those of no
cache count as memory, not as overhead). It cannot run without its features: dkv-pd, which also keeps the prompt and
renews the response at intervals, is what it compares with.

Weights and activations are float32, on the embedded model; `cache_dtype` is what varies. Seconds are of the processor,
of the first four prompts, no cache in float32 and the cache step about (`dkv.lab.bench.measure.interleave`). Bytes are
also counted for LLaDA-8B's shape with the cache in that dtype."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from dkv.caches import make_cache
from dkv.core.cache_size import cache_bytes
from dkv.core.dtypes import DTYPES
from dkv.lab.bench.instruments import peak_bytes
from dkv.lab.bench.measure import interleave
from dkv.lab.bench.roofline import weight_bytes
from dkv.lab.bench.shapes import SHAPES
from dkv.lab.common.charts import Bar, Chart, Ends, Panel, with_unit
from dkv.lab.eval.statistics import Difference, Share
from dkv.lab.study.accuracy import percent
from dkv.lab.study.base import Cell, Effort, Record, Verdict
from dkv.lab.study.context import Kit
from dkv.lab.study.fidelity import free, one_run
from dkv.lm import DiffusionLM
from dkv.outputs import Generation
from dkv.tiny import TASKS, Example, load_eval

__all__ = ["MODERATE", "MemoryCompute", "label_of"]

MODERATE = 0.15
"""Share of LLaDA-8B's weights that features may take at most to count as moderate."""

_BASE = ("none", "float32")
_LENGTH = 1280
"""Positions at which the overhead is counted: GSM8K's prompts of about a thousand tokens, and 256 of response."""
_TIMED = 4
_MOST = 100
_PEAK = 2048
"""Positions at which the peak is taken, where the buffers are more than the noise of resident memory."""


class MemoryCompute:
    """Rule: the claim holds if, on LLaDA-8B's shape at 1,280 positions, dllm-cache in bfloat16 takes at most 15% of the
    weights more than keys and values alone, and here computes fewer rows and takes less time than no cache."""

    name = "memory"
    claim = (
        "Keeping the features of attention and feed-forward besides keys and values costs little memory for what it "
        "saves (dLLM-Cache, arXiv 2506.06295; Sparse-dLLM, arXiv 2508.02558, measured 17.85 GB against 16.18 GB "
        "without a cache on GSM8K, and 21.08 GB for dKV-Cache)."
    )

    def cells(self, effort: Effort) -> Sequence[Cell]:
        """Each policy with its cache in each dtype."""
        policies: tuple[str, ...] = ("none", "dkv-decode", "dkv-pd", "dllm-cache:kp=50,kr=7,rho=0.25")
        if not effort.quick:
            policies = (*policies[:2], "dkv-greedy", *policies[2:], "dllm-cache:kp=50,kr=7,rho=0")
        count = min(effort.count, _TIMED if effort.quick else _MOST)
        pairs = [(cache, dtype) for cache in policies for dtype in ("float32", "bfloat16")]
        return [
            {"task": "words", "count": count, "cache": cache, "cache_dtype": dtype}
            for cache, dtype in pairs
            if not (effort.quick and (cache, dtype) == ("none", "bfloat16"))
        ]

    def measure(self, kit: Kit, cells: Sequence[Cell]) -> Iterator[Record]:
        """Each cell beside no cache in float32. Raises what loading raises."""
        wide, none = kit.in_float32(), dict[Example, Generation]()
        for cell in cells:
            kit.tell(f"{cell['cache']}, cache in {cell['cache_dtype']}")
            yield Record(cell, _result(wide.lm(), cell, none))

    def chart(self, records: Sequence[Record]) -> Chart:
        """Bytes, peak, time and texts, a line for each policy and dtype; pale bars are caches in bfloat16."""
        names, results = [label_of(r.cell) for r in records], [r.result for r in records]
        shares = [Share(sum(r["same"]), len(r["same"])) for r in results]

        def panel(label: str, values: Sequence[float], unit: str) -> Panel:
            texts = [f"{n:.2f}x" if unit == "x" else with_unit(n, unit) for n in values]
            return Panel(label, bars=bars(values, texts), categories=names, unit_x="B" if unit == "B" else None)

        def bars(values: Sequence[float], texts: Sequence[str] = (), ends: Sequence[Ends] = ()) -> list[Bar]:
            return [
                Bar(n, values[n], r.cell["cache"], texts[n] if texts else "", ends[n] if ends else None,
                    pale=r.cell["cache_dtype"] == "bfloat16")
                for n, r in enumerate(records)
            ]  # fmt: skip

        same = bars([100 * s.value for s in shares], ends=[percent(s.interval) for s in shares])
        panels = [
            panel("cache memory of a position", [r["cache_bytes"] for r in results], "B"),
            panel("peak of a whole step of 2,048 positions", [r["peak_bytes"] or 0 for r in results], "B"),
            panel("speed-up over no cache (times)", list(map(_speedup, results)), "x"),
            Panel("texts as without a cache (%), 95% interval", bars=same, categories=names),
        ]
        title = "Memory against compute: the embedded model in float32, the cache in float32 or bfloat16"
        return Chart(title, panels, 4, size=(3.75, 0.42 * len(records) + 0.5), shared=True)

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the rule of the class."""
        known = {(r.cell["cache"], r.cell["cache_dtype"]): r.result for r in records}
        features = [key for key in known if key[0].startswith("dllm-cache") and key[1] == "bfloat16"]
        if not features:
            return Verdict(None, "dllm-cache with its cache in bfloat16 was not measured.")
        found = known[features[0]]
        plain = cache_bytes(SHAPES["llada-8b"], make_cache("none"), _LENGTH - 256, 256, 1, torch.bfloat16)
        over = (found["llada_bytes"] - plain) / found["llada_weights"]
        saved = found["rows"] / found["none_rows"]
        held = over <= MODERATE and saved < 1 and _speedup(found) > 1
        sentence = (
            f"On LLaDA-8B's shape at {_LENGTH:,} positions, bfloat16, dllm-cache's features add {over:.1%} of the "
            f"weights to keys and values; here it computes {saved:.0%} of the rows of no cache, {_speedup(found):.1f}x "
            f"as fast. {_dtypes(known)}"
        )
        return Verdict(held, sentence)


def _speedup(result: Mapping[str, Any]) -> float:
    """No cache's seconds over its own, of all prompts."""
    return float(sum(result["none_seconds"]) / sum(result["seconds"]))


def label_of(cell: Cell) -> str:
    """Policy and dtype in short."""
    return f"{cell['cache'].replace('kp=50,kr=7,', '')}, {'bf16' if cell['cache_dtype'] == 'bfloat16' else 'fp32'}"


def _result(lm: DiffusionLM, cell: Cell, none: dict[Example, Generation]) -> dict[str, Any]:
    """cache_bytes of a position; llada_bytes of LLaDA-8B's shape at 1,280 positions, llada_weights; peak_bytes of a
    step that computes all, of 2,048 positions, beside the weights; rows, none_rows; seconds and none_seconds by timed
    prompt; same, right, none_right: by prompt, texts being compared with those of no cache in float32.

    none: what no cache generates, where it is known; added to."""
    examples = load_eval(cell["task"])[: cell["count"]]
    seconds, own = list[tuple[float, float]](), list[Generation]()
    for example in examples[:_TIMED]:
        (none[example], base), (mine, took) = _beside(lm, example, cell)
        seconds.append((base, took))
        own.append(mine)
    for example in examples[_TIMED:]:
        if example not in none:
            none[example] = free(lm, example.asked, example.gen_length, *_BASE)
        own.append(free(lm, example.asked, example.gen_length, cell["cache"], cell["cache_dtype"]))
    check, bases = TASKS[cell["task"]].check, [none[example] for example in examples]
    return {
        **_bytes(lm, cell),
        "rows": sum(mine.stats.rows_computed for mine in own),
        "none_rows": sum(base.stats.rows_computed for base in bases),
        "none_seconds": [base for base, _ in seconds],
        "seconds": [took for _, took in seconds],
        "same": [mine.text == base.text for mine, base in zip(own, bases, strict=True)],
        "right": [check(e, mine.text or "") for e, mine in zip(examples, own, strict=True)],
        "none_right": [check(e, base.text or "") for e, base in zip(examples, bases, strict=True)],
    }


def _bytes(lm: DiffusionLM, cell: Cell) -> dict[str, int | None]:
    config, policy, large = lm.model.config, make_cache(cell["cache"]), SHAPES["llada-8b"]
    dtype = DTYPES[cell["cache_dtype"]]
    return {
        "cache_bytes": cache_bytes(config, policy, 2, 1, 1, dtype) - cache_bytes(config, policy, 1, 1, 1, dtype),
        "llada_bytes": cache_bytes(large, policy, _LENGTH - 256, 256, 1, dtype),
        "llada_weights": weight_bytes(large, torch.bfloat16.itemsize),
        "peak_bytes": _peak(lm, cell),
    }


def _beside(lm: DiffusionLM, example: Example, cell: Cell) -> list[tuple[Generation, float]]:
    """No cache and the cell's on one prompt, step about: what they generated, and seconds of the processor (of the wall
    clock on another device)."""
    sides = (_BASE, (cell["cache"], cell["cache_dtype"]))
    runs = [one_run(lm, example.asked, example.gen_length, *side) for side in sides]
    spent, cpu = interleave(runs, None, lm.model.device), lm.model.device.type == "cpu"
    seconds = (took.cpu if cpu else took.wall for took in spent)
    return [(run.outcome().generations[0], took) for run, took in zip(runs, seconds, strict=True)]


def _peak(lm: DiffusionLM, cell: Cell) -> int | None:
    """Bytes held at the highest by the first step of a sequence that fills the model's context or 2,048 positions."""
    size = min(_PEAK, lm.model.config.context) - 64
    start = one_run(lm, [0] * size, 64, "none")  # what is allocated once and for all
    start.step()
    del start
    return peak_bytes(lambda: one_run(lm, [0] * size, 64, cell["cache"], cell["cache_dtype"]).step(), lm.model.device)


def _dtypes(known: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    """What a cache in bfloat16 changes: texts that are no cache's in float32, against the same cache in float32."""
    told = []
    for cache in dict.fromkeys(cache for cache, _ in known):
        wide, narrow = known.get((cache, "float32")), known.get((cache, "bfloat16"))
        if wide and narrow and cache != "none":
            texts = Share(sum(wide["same"]), len(wide["same"]))
            told.append(f"{cache}: {texts} in float32, bfloat16 {Difference.of(narrow['same'], wide['same'])}")
    return f"Texts as without a cache: {'; '.join(told)}." if told else ""
