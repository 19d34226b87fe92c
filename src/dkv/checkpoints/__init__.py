"""Checkpoint directories and the hub: config, weights and special tokens, read and checked without remote code."""

from __future__ import annotations

__all__: list[str] = []
