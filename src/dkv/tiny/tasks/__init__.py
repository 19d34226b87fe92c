"""The tasks of the embedded model, by name. `drill` and `recall` are for training only."""

from __future__ import annotations

from dkv.tiny.tasks import code, dialogue, drill, lists, lookup, recall, spanish, words
from dkv.tiny.tasks import csv_json as convert
from dkv.tiny.tasks.base import Example, Task, is_held_out

__all__ = ["ALL", "EVALUATED", "Example", "Task", "is_held_out"]

EVALUATED: dict[str, Task] = {
    t.name: t for t in (words.TASK, lists.TASK, code.TASK, convert.TASK, lookup.TASK, dialogue.TASK, spanish.TASK)
}
ALL: dict[str, Task] = EVALUATED | {t.name: t for t in (drill.TASK, recall.TASK)}
