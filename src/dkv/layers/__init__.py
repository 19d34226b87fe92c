"""What networks are made of: transformer blocks, attention, rotary positions, quantized and sharded weights."""

from __future__ import annotations

__all__: list[str] = []
