"""Measuring: accuracy, speed, studies of the field's claims, diagnosis and tuning. Only the command line imports it."""

from __future__ import annotations

__all__: list[str] = []
