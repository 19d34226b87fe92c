"""Faster ways to run the same forwards, all optional: torch.compile, CUDA graphs, C on a CPU, malloc settings."""

from __future__ import annotations

__all__: list[str] = []
