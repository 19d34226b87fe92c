"""How the models that ship with dkv were made."""

from __future__ import annotations

__all__: list[str] = []
