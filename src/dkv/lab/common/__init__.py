"""What the measuring packages share."""

from __future__ import annotations

__all__: list[str] = []
