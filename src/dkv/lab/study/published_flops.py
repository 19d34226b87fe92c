"""Operations saved at the published settings, on LLaDA-8B's shape: counted, so nothing of it depends on a machine.

The published factors are against a program that recomputes every row and runs the head over the whole sequence; beside
them stands the honest factor, against our own run without a cache, which runs the head only where it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dkv.core.model import ModelConfig
from dkv.lab.bench.flops import LayerWork, Work, flops
from dkv.lab.bench.replay import replay
from dkv.lab.bench.shapes import named_shape
from dkv.lab.common.charts import Bar, Chart, Panel
from dkv.lab.study.base import Cell, Effort, Record, Verdict
from dkv.lab.study.context import Kit
from dkv.lab.study.runs import settings_for

__all__ = ["Flops"]

_SHAPE = "llada-8b"
_PUBLISHED = (
    # task, prompt, gen, cache, factor of the paper's figure (Base or Instruct, whichever is larger)
    ("gsm8k", 893, 256, "dllm-cache:kp=50,kr=7,rho=0.25", 5.8),
    ("gpqa", 1200, 128, "dllm-cache:kp=50,kr=6,rho=0.25", 8.1),
    ("humaneval", 150, 512, "dllm-cache:kp=50,kr=8,rho=0.25", 6.1),
    ("mbpp", 700, 512, "dllm-cache:kp=100,kr=5,rho=0.25", 5.6),
    ("hotpotqa", 8192, 32, "dllm-cache:kp=100,kr=8,rho=0.25", 9.1),
)
_KINDS = {
    "published": "published",
    "vanilla": "ours, against recomputing all with the head on all rows",
    "none": "ours, against our own no cache",
}
_KNOWN = "gsm8k"
_QUICK = (_KNOWN, "hotpotqa")


class Flops:
    """dLLM-Cache's factors. Held where ours is at least nine tenths of the published one for the lengths that are
    published, GSM8K's; the others, at prompt lengths of ours, are listed beside."""

    name = "flops"
    claim = (
        "dLLM-Cache: between 3.2x and 8.1x fewer operations on LLaDA's tasks at rho 0.25, up to 9.1x on HotpotQA "
        "(arXiv 2506.06295, its figure and abstract); 5.8x on GSM8K with 893 prompt and 256 response tokens."
    )

    def cells(self, effort: Effort) -> Sequence[Cell]:
        """A published setting each."""
        return [
            {"task": task, "shape": _SHAPE, "prompt": prompt, "gen_length": gen, "cache": cache, "published": factor}
            for task, prompt, gen, cache, factor in _PUBLISHED
            if not effort.quick or task in _QUICK
        ]

    def measure(self, kit: Kit, cells: Sequence[Cell]) -> Iterator[Record]:
        """Count; no model is run."""
        for cell in cells:
            kit.tell(f"counting {cell['task']}")
            config, prompt, gen = named_shape(cell["shape"]), int(cell["prompt"]), int(cell["gen_length"])
            whole = Work((LayerWork(config.layers, prompt + gen, prompt + gen, (prompt + gen) ** 2),), prompt + gen)
            none, cached = (_total(config, cache, prompt, gen) for cache in ("none", str(cell["cache"])))
            yield Record(cell, {"vanilla": gen * flops(config, whole), "none": none, "cache": cached})

    def chart(self, records: Sequence[Record]) -> Chart:
        """Published factor, ours against the published kind of baseline, and ours against our own."""
        bars = []
        for place, (kind, name) in enumerate(_KINDS.items()):
            for n, record in enumerate(records):
                value = _factor(record, kind)
                bars.append(Bar(n + 0.26 * (place - 1), value, name, f"{value:.1f}x", height=0.24, named=True))
        names = [f"{r.cell['task']}\n{r.cell['prompt']} + {r.cell['gen_length']}" for r in records]
        label = "times fewer operations (FLOPs), prompt + response tokens on the left"
        return Chart("", [Panel(label, bars=bars, categories=names)], size=(7.5, 0.75 * len(records) + 0.4))

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """By the factor against the published kind of baseline."""
        known = [r for r in records if r.cell["task"] == _KNOWN]
        held = all(_factor(r, "vanilla") >= 0.9 * _factor(r, "published") for r in known) if known else None
        others = "; ".join(map(_listed, (r for r in records if r not in known)))
        said = "; ".join(map(_listed, known)) + (f". At prompt lengths of ours: {others}" if others else "")
        return Verdict(held, f"Operations on LLaDA-8B's shape: {said}.")


def _listed(record: Record) -> str:
    return (
        f"{record.cell['task']} published {record.cell['published']:.1f}x, here {_factor(record, 'vanilla'):.2f}x "
        f"({_factor(record, 'none'):.2f}x of our own no cache)"
    )


def _factor(record: Record, kind: str) -> float:
    return float(record.cell["published"] if kind == "published" else record.result[kind] / record.result["cache"])


def _total(config: ModelConfig, cache: str, prompt: int, gen: int) -> int:
    """Operations of a generation of one block, a token a step."""
    return sum(flops(config, work) for work in replay(config, settings_for(cache, gen, gen), prompt))
