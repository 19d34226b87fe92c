"""The embedded models: where their files lie, the tasks that they were trained for and the frozen evaluation sets.

Light to import: no torch, no tokenizer. The recipe is `python -m recipes.tiny.train`.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from dkv.tiny.checks import TASKS, Example, Task

__all__ = ["EVALUATION_DIR", "MODELS", "MODEL_DIR", "TASKS", "Example", "Task", "load_eval"]

MODEL_DIR: Path = Path(__file__).parent / "model"
MODELS: dict[str, Path] = {
    "tiny": MODEL_DIR,
    "tiny-dream": MODEL_DIR.with_name("dream"),
    "tiny-small": MODEL_DIR.with_name("small"),
}
"""By the name that `dkv.load` takes."""
EVALUATION_DIR: Path = Path(__file__).parent / "evaluation"


def load_eval(task: str) -> list[Example]:
    """The frozen evaluation set of a task: 400 examples that training never draws."""
    with gzip.open(EVALUATION_DIR / f"{task}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [Example.from_json(json.loads(line)) for line in lines]
