"""Cells of the study `memory`: their names, and the figure that plot and rule share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dkv.lab.study.base import Cell

__all__ = ["label_of", "seconds_saved"]


def seconds_saved(result: Mapping[str, Any]) -> float:
    """No cache's seconds over its own, of all prompts."""
    return float(sum(result["none_seconds"]) / sum(result["seconds"]))


def label_of(cell: Cell) -> str:
    """Policy and dtype in short."""
    return f"{cell['cache'].replace('kp=50,kr=7,', '')}, {'bf16' if cell['cache_dtype'] == 'bfloat16' else 'fp32'}"
