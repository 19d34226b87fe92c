"""Fast-dLLM's block caches (Wu et al., arXiv 2505.22618): everything outside the active block is kept from the block's
first step, which computes all; there is no refresh within a block.

The rows that predict the block (with a shift, the one before it) are added by the core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dkv.plan import Plan, Step

__all__ = ["Dual", "Prefix"]


def _from_block(step: Step) -> Tensor:
    """[B, T] positions from the active block's start on."""
    return step.canvas.live & (step.canvas.position >= step.block[0][:, None])


def _first(step: Step) -> Tensor:
    """[B, T] every live row of the sequences that are at their block's first step."""
    return step.canvas.live & (step.index == 0)[:, None]


@dataclass(frozen=True)
class Prefix:
    """Fast-dLLM's prefix cache. Recomputes the active block and everything after it, and everything at the first step of
    each block."""

    name: ClassVar[str] = "fast-prefix"

    def plan(self, step: Step) -> Plan:
        """Keep what lies before the block."""
        return Plan(_first(step) | _from_block(step))


@dataclass(frozen=True)
class Dual:
    """Fast-dLLM's dual cache. Recomputes the active block alone, and everything at the first step of each block."""

    name: ClassVar[str] = "fast-dual"

    def plan(self, step: Step) -> Plan:
        """Keep what lies before and after the block."""
        return Plan(_first(step) | (_from_block(step) & (step.canvas.position < step.block[1][:, None])))
