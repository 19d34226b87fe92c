"""Which embedded task stands for which domain of text, and the cells of a study that asks them all.

A cell is a few neighbouring examples of a task, which share a batch: a larger study goes on from a smaller one. Where
the task is a conversation the cell says which turns are asked, and so differs from those that asked the last one alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import MappingProxyType

from dkv.lab.study.base import Cell, Effort
from dkv.lab.study.context import Kit
from dkv.lab.study.layer_probes import Snapshot, observe
from dkv.lab.study.runs import ids_of
from dkv.lm import DiffusionLM
from dkv.tiny import TASKS, load_eval

__all__ = ["DOMAINS", "domains_of", "exact", "snapshots", "task_cells"]

DOMAINS = MappingProxyType(
    {"code": "code", "words": "arithmetic", "dialogue": "dialogue", "spanish": "second language (Spanish)"}
)
"""Task to domain, as figures call it."""

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


def exact(kit: Kit) -> DiffusionLM:
    """The studied model in float32, whatever the kit's dtype: small drifts are beyond bfloat16. Raises what `load`
    raises."""
    return Kit(kit.model, kit.device, "float32", kit.compile, kit.tell).lm()


def snapshots(lm: DiffusionLM, cell: Cell) -> Iterator[Snapshot]:
    """What each step of a cell's generation computed. Raises PromptError without a tokenizer."""
    examples = load_eval(cell["task"])[cell["first"] : cell["first"] + cell["count"]]
    return observe(lm, ids_of(lm, [e.asked for e in examples]), examples[0].gen_length)


def domains_of(cells: Sequence[Cell]) -> list[str]:
    """The domains of some cells, each once, in the order of `DOMAINS`."""
    found = {cell["task"] for cell in cells}
    return [domain for task, domain in DOMAINS.items() if task in found]
