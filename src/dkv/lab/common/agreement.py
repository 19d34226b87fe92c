"""How far two generations of one prompt agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dkv.outputs import Generation

__all__ = ["agreement"]


def agreement(first: Generation, other: Generation) -> float:
    """Share of equal tokens, up to the end of the longer of the two texts."""
    end = max(first.stats.new_tokens, other.stats.new_tokens)
    pairs = list(zip(first.token_ids[:end], other.token_ids[:end], strict=True))
    return sum(a == b for a, b in pairs) / end if end else 1.0
