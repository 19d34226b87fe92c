"""The loop and what it works on: canvas, policy, packing, cache, sampling. Reads in one sitting; no device tricks."""

from __future__ import annotations

__all__: list[str] = []
