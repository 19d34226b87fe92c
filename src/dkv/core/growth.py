"""By how much a canvas grows where nobody says so. In a file of its own, so that a command's help needs no torch."""

from __future__ import annotations

__all__ = ["BLOCK_LENGTH"]

BLOCK_LENGTH = 64
"""Positions. The embedded model loses two points of accuracy with 32, and none with 64: see docs/serve.md."""
