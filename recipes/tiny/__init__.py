"""The training of the embedded models: data, network, optimisers, export. Not part of the wheel."""

from __future__ import annotations

__all__: list[str] = []
