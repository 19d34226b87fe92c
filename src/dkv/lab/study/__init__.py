"""The field's experiments as commands: `dkv study`."""

from __future__ import annotations

__all__: list[str] = []
