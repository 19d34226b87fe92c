"""Draws the evaluation sets and freezes them: `python -m recipes.tiny.freeze [TASK ...]`. Once a task; the files
ship."""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from dkv.tiny import EVALUATION_DIR, MODEL_DIR, Example
from recipes.tiny.tasks import EVALUATED, Generator
from recipes.tiny.tasks.base import as_json
from recipes.tiny.tiny_tokenizer import load

COUNT = 400
SHORTEST = 20  # tokens of an answer with its end-of-text: shorter ones leave a cache too few steps to matter


def draw(task: Generator, seed: int = 2026, count: int = COUNT) -> list[Example]:
    """`count` different examples of the evaluation side, all of the full difficulty, none answered in a few tokens."""
    rng, tokenizer = random.Random(f"{seed} {task.name}"), load(MODEL_DIR)
    found: dict[str, Example] = {}
    while len(found) < count:
        example = task.evaluation(rng)
        if len(tokenizer.encode(example.answer).ids) + 1 >= SHORTEST:
            found.setdefault(example.key, example)
    return list(found.values())


def freeze(folder: Path, names: Sequence[str] = ()) -> None:
    """One gzipped JSONL for each task (none named: all), without a time stamp: the same draw gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or EVALUATED:
        task = EVALUATED[name]
        lines = "".join(json.dumps(as_json(example)) + "\n" for example in draw(task))
        (folder / f"{task.name}.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))


if __name__ == "__main__":
    freeze(EVALUATION_DIR, sys.argv[1:])
