"""Hand-made records, and models with random weights that can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dkv.lab.study.accuracy import Policy
from dkv.lab.study.base import Record
from tests.support.checkpoints import config_of, dream_config_of, write_checkpoint, write_tokenizer

__all__ = ["SMALL", "flags", "llada", "record", "small_dream"]

SMALL = "micro,width=64,layers=2,heads=2,mlp_width=96,context=512"
"""A shape, for costs that are measured on random weights."""


def flags(*runs: tuple[int, bool]) -> list[bool]:
    """Runs of equal flags: flags((3, True), (1, False))."""
    return [flag for count, flag in runs for _ in range(count)]


def record(policy: Policy, right: Sequence[bool], rows: float = 1.0, task: str = "words", **more: Any) -> Record:
    """A cell of a policy. rows: the share computed; more: of the cell, and of the result if it is a list there."""
    result = {
        "right": list(right),
        "said": [f"{flag}" for flag in right],
        "rows": rows * 1000,
        "rows_total": 1000,
        "tokens": 10 * len(right),
        "seconds": float(len(right)),
        "cpu_seconds": rows * len(right),
    }
    return Record({"task": task, "count": len(right), **policy.fields, **more}, result)


def llada(directory: Path, seed: int = 0) -> str:
    """A small LLaDA that takes the embedded tasks' prompts."""
    return str(write_tokenizer(write_checkpoint(directory, config_of(max_sequence_length=2048), seed=seed)))


def small_dream(directory: Path) -> str:
    """The same for Dream."""
    return str(write_tokenizer(write_checkpoint(directory, dream_config_of(max_position_embeddings=2048))))
