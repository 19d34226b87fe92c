"""Files on disk: read without surprises, written whole or not at all, JSON lines that can be resumed; and a sandbox."""

from __future__ import annotations

__all__: list[str] = []
