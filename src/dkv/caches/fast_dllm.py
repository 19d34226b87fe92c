"""Fast-dLLM's block caches (Wu et al., arXiv 2505.22618): everything outside the active block is kept from the block's
first step, which computes all; there is no refresh within a block.

The rows that predict the block (with a shift, the one before it) are added by the core. The program for Dream does not
carry that row, so it fixes the block's first position, and no other, at the block's first forward; `published` does so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from dkv.core.policy import Plan, Step

__all__ = ["Dual", "Prefix", "opening"]


def _from_block(step: Step) -> Tensor:
    """[B, T] positions from the active block's start on."""
    return step.canvas.live & (step.canvas.position >= step.block[0][:, None])


def _first(step: Step) -> Tensor:
    """[B, T] every live row of the sequences that are at their block's first step."""
    return step.canvas.live & (step.block_step == 0)[:, None]


def opening(step: Step, plan: Plan, published: bool) -> Plan:
    """The plan, by which (published, on Dream) a block's first forward reads and fixes its first position alone."""
    if not (published and step.shift):
        return plan
    first = ((step.block_step == 0) & (step.block_steps > 1))[:, None]  # else nothing would be left to fix the others
    only = step.canvas.position == step.block[0][:, None]
    # Where that position is given (a text with holes), the block has none to open with.
    opens = first & (step.query & only).any(1, keepdim=True)
    return replace(plan, query=~opens | only, commits=opens & only)


@dataclass(frozen=True)
class Prefix:
    """Fast-dLLM's prefix cache. Recomputes the active block and everything after it, and everything at the first step
    of each block.

    published: on Dream, fix a block's first position at its first forward, whatever its confidence, and nothing else.
    """

    name: ClassVar[str] = "fast-prefix"
    published: bool = False

    def plan(self, step: Step) -> Plan:
        """Keep what lies before the block."""
        return opening(step, Plan(_first(step) | _from_block(step)), self.published)


@dataclass(frozen=True)
class Dual:
    """Fast-dLLM's dual cache. Recomputes the active block alone, and everything at the first step of each block.

    published: on Dream, fix a block's first position at its first forward, whatever its confidence, and nothing else.
    """

    name: ClassVar[str] = "fast-dual"
    published: bool = False

    def plan(self, step: Step) -> Plan:
        """Keep what lies before and after the block."""
        rows = _first(step) | (_from_block(step) & (step.canvas.position < step.block[1][:, None]))
        return opening(step, Plan(rows), self.published)
