"""Measuring speed: policies over lengths, batches and dtypes, on a real model or on random weights of a named shape.

Nothing here is imported by the engine. `grid` says what is measured, `measure` measures it, `rows` keeps it.
"""

from __future__ import annotations

__all__: list[str] = []
