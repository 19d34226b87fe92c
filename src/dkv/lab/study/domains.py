"""What the studies share that look into a model, by domain of text: which embedded task stands for which, their cells,
and values by prompt.

A cell is a few neighbouring examples of a task, which share a batch: a larger study goes on from a smaller one. Where
the task is a conversation the cell says which turns are asked, and so differs from those that asked the last one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from dkv.core.drift import drift
from dkv.lab.study.base import Cell, Effort, Record
from dkv.lab.study.context import Kit
from dkv.lab.study.layer_probes import Snapshot, observe
from dkv.lab.study.runs import ids_of
from dkv.lm import DiffusionLM
from dkv.tiny import TASKS, load_eval

__all__ = ["DOMAINS", "domains_of", "listed", "moved", "probed", "snapshots", "task_cells", "values_of"]

DOMAINS = MappingProxyType(
    {"code": "code", "words": "arithmetic", "dialogue": "dialogue", "spanish": "second language (Spanish)"}
)
"""Task to domain, as figures call it."""

Summary = Callable[[Iterator[Snapshot]], list[dict[str, Any]]]
"""From what the steps of a generation computed to what is kept of each prompt."""

_BATCH = 4
_PROMPTS, _QUICK = 24, 4


def task_cells(effort: Effort) -> list[Cell]:
    """The cells of the tasks that this version ships: 24 prompts of each (4 if quick, never more than asked for)."""
    count = min(_QUICK if effort.quick else _PROMPTS, effort.count)
    starts = range(0, count, _BATCH)
    return [
        {"task": task, "first": first, "count": min(_BATCH, count - first), **turns}
        for task in DOMAINS
        if task in TASKS
        for turns in [_turns(task)]
        for first in starts
    ]


def _turns(task: str) -> Cell:
    return {"turns": "all"} if any(example.history for example in load_eval(task)) else {}


def probed(kit: Kit, cells: Sequence[Cell], name: str, summary: Summary) -> Iterator[Record]:
    """What a summary makes of each cell's generation without a cache, of the studied model in float32, whatever the
    kit's dtype: small drifts are beyond bfloat16. Raises what loading raises, and PromptError without a tokenizer."""
    lm = kit.in_float32().lm()
    for cell in cells:
        kit.tell(f"{name}: {cell['task']}, prompts from {cell['first']}")
        yield Record(cell, {"prompts": summary(snapshots(lm, cell))})


def snapshots(lm: DiffusionLM, cell: Cell) -> Iterator[Snapshot]:
    """What each step of a cell's generation computed. Raises PromptError without a tokenizer."""
    examples = load_eval(cell["task"])[cell["first"] : cell["first"] + cell["count"]]
    return observe(lm, ids_of(lm, [e.asked for e in examples]), examples[0].gen_length)


def domains_of(records: Sequence[Record]) -> list[str]:
    """The domains of some records, each once, in the order of `DOMAINS`."""
    found = {record.cell["task"] for record in records}
    return [domain for task, domain in DOMAINS.items() if task in found]


def values_of(records: Sequence[Record], domain: str, *names: str) -> Tensor:
    """What a domain's prompts have under some names, [prompts, ...]; NaN where there was nothing."""
    found = []
    for record in records:
        if DOMAINS[record.cell["task"]] == domain:
            for prompt in record.result["prompts"]:
                for name in names:
                    prompt = prompt[name]
                found.append(_numbers(prompt))
    return torch.tensor(found, dtype=torch.float64)


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    return torch.nan if value is None else value


def listed(values: Tensor, digits: str) -> Any:
    """As JSON, with numbers as `format` makes them: None for NaN."""
    if values.dim():
        return [listed(one, digits) for one in values]
    return None if values != values else float(format(values.item(), digits))


def moved(new: Tensor, old: Tensor) -> Tensor:
    """1 - cosine [L, T] of vectors [L, T, D]."""
    return drift(new.flatten(0, 1), old.flatten(0, 1), "cosine").view(new.shape[:2])
