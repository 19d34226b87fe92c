"""Accuracy by cache policy: questions, their answers kept in a file, and paired statistics; lm-eval's tasks as well.

Nothing here is imported by the engine.
"""

from __future__ import annotations

__all__: list[str] = []
