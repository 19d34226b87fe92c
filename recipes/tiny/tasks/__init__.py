"""The generators of the embedded model's tasks, by name. `drill` and `recall` are for training only."""

from __future__ import annotations

from recipes.tiny.tasks import code, dialogue, drill, lists, lookup, recall, spanish, words
from recipes.tiny.tasks import csv_json as convert
from recipes.tiny.tasks.base import Generator, is_held_out

__all__ = ["ALL", "EVALUATED", "Generator", "is_held_out"]

EVALUATED: dict[str, Generator] = {
    t.name: t for t in (words.TASK, lists.TASK, code.TASK, convert.TASK, lookup.TASK, dialogue.TASK, spanish.TASK)
}
ALL: dict[str, Generator] = EVALUATED | {t.name: t for t in (drill.TASK, recall.TASK)}
