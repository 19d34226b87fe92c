"""What a cache policy sees (`Step`), what it answers (`Plan`), and what a decoder is.

A policy is one function from the state of the canvas to the boolean mask of rows to compute. Everything that is not
computed is read from the slots as they were left; that is all that caching is here.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.canvas import Canvas
from dkv.core.layer_rules import DENSE, Rules
from dkv.core.sampling import Read

__all__ = ["CachePolicy", "Decoder", "Noting", "Plan", "Step", "notes_of", "readers_of", "rules_of"]


@dataclass(frozen=True)
class Step:
    """All that a policy or a decoder may look at before a forward. Row by row; B sequences, T positions.

    clock [B]: forwards of this sequence so far. index [B], steps [B]: step within the active block, and steps of that
    block. block: start and end [B] of the active block. wanted [B, T]: positions that the decoder would read now.
    rank [B, T]: the decoder's expected commit order, 0 first, NEVER where unknown. score [B, T]: confidence last read
    there, -inf before. fresh [B, T]: tokens changed since the previous forward. computed_at [B, T]: clock at which each
    slot was computed, NEVER before. shift: 1 where row p predicts token p + 1 (and row 0 also itself), else 0. notes
    [B, T, K]: what the decoder noted when it last read there, 0 before; None for one that keeps none. The canvas is the
    live one: it moves on with the commit.
    """

    canvas: Canvas
    clock: Tensor
    index: Tensor
    steps: Tensor
    block: tuple[Tensor, Tensor]
    wanted: Tensor
    rank: Tensor
    score: Tensor
    fresh: Tensor
    computed_at: Tensor
    shift: int
    notes: Tensor | None = None

    def wanting(self, wanted: Tensor) -> Step:
        """The same step with other `wanted` [B, T]; what was found out of the rest stays known."""
        step = copy(self)
        step.__dict__.pop("readers", None)
        step.__dict__["wanted"] = wanted  # frozen, as its users see it
        return step

    @cached_property
    def masked(self) -> Tensor:
        """[B, T] positions still to be fixed."""
        return self.canvas.masked

    @cached_property
    def open(self) -> Tensor:
        """[B, T] masked positions up to the active block's end (also ones left behind before it)."""
        return self.masked & (self.canvas.position < self.block[1][:, None])

    @cached_property
    def readers(self) -> Tensor:
        """[B, T] rows whose output predicts the wanted positions."""
        return readers_of(self.wanted, self.shift)

    @cached_property
    def quota(self) -> Tensor:
        """[B] tokens that LLaDA's schedule fixes at this step: an even split over the block's steps, the remainder to
        the earliest; which is what is open, over the steps left, rounded up."""
        left = self.steps - self.index
        return (self.open.sum(1) + left - 1) // left


def readers_of(wanted: Tensor, shift: int) -> Tensor:
    """Rows that predict the `wanted` [B, T] positions, for a model whose row p predicts token p + shift."""
    if not shift:
        return wanted
    left = F.pad(wanted[:, 1:], (0, 1))
    left[:, 0] |= wanted[:, 0]
    return left


@dataclass(frozen=True)
class Plan:
    """What one forward computes.

    rows [B, T]: carried through the network; the core adds the rows that predict what is read, so that no token is ever
    chosen from a row that was not carried. visible [B, T]: slots that attention may read, None = all live ones.
    reads [B, T]: which of `wanted` are read now, None = all; commits [B, T]: which of those are fixed whatever the
    decoder says, None = none. rest [B]: guide rows that skip this forward, their last
    output standing in; None = none.

    For layers that pick rows of their own (`rules`): forced [B, T] are always recomputed, frozen [B, T] never, and of
    the other carried rows budget [B], the most drifted ones.
    """

    rows: Tensor
    visible: Tensor | None = None
    reads: Tensor | None = None
    rest: Tensor | None = None
    rules: Rules = DENSE
    forced: Tensor | None = None
    frozen: Tensor | None = None
    budget: Tensor | None = None
    commits: Tensor | None = None

    def picks(self, rows: Tensor) -> Tensor:
        """[B] rows that each picking layer recomputes, of the carried `rows` [B, T]."""
        none = torch.zeros_like(rows)
        forced = rows & (none if self.forced is None else self.forced)
        free = rows & ~forced & ~(none if self.frozen is None else self.frozen)
        count = forced.sum(1)
        return count if self.budget is None else count + torch.minimum(self.budget, free.sum(1))


@runtime_checkable
class CachePolicy(Protocol):
    """A cache: stateless, each sequence treated on its own. One whose plans have rules says so by an attribute `rules`
    as well, the same in every plan: by it the engine finds the requests that can share a forward."""

    def plan(self, step: Step) -> Plan:
        """Choose the rows to compute."""
        ...


def rules_of(policy: CachePolicy) -> Rules:
    """The layer rules of a policy's plans: its attribute `rules`, dense where it has none."""
    rules = getattr(policy, "rules", DENSE)
    return rules if isinstance(rules, Rules) else DENSE


@runtime_checkable
class Decoder(Protocol):
    """An unmasking rule. It keeps nothing between steps: what it knows ahead is its order, what it learns is in Step
    (see `Noting` for one that must learn more). Each sequence is treated on its own. adaptive: a block ends as soon as
    it is complete, not after its steps."""

    adaptive: ClassVar[bool]

    def rank(self, canvas: Canvas) -> Tensor:
        """[B, T] the commit order, 0 first, as far as it is known when the sequences join; NEVER where it is not."""
        ...

    def wanted(self, step: Step) -> Tensor:
        """[B, T] positions that it would read now: masked ones only. (`step.wanted` is not filled in yet.)"""
        ...

    def commit(self, step: Step, read: Read) -> Tensor:
        """[B, T] positions to fix now, each among those read."""
        ...


@runtime_checkable
class Noting(Decoder, Protocol):
    """A decoder that learns from step to step: `notes` numbers (float32) of each position, which it writes whenever it
    reads there, and finds again in `Step.notes`. They start as 0, stay as they are where nothing is read, and move with
    their sequence; it may find more columns than it asked for, of which the first ones are its own."""

    @property
    def notes(self) -> int:
        """How many numbers it keeps of each position."""
        ...

    def note(self, step: Step, read: Read) -> Tensor:
        """What to keep of the positions read, [M, notes]; `commit` then sees a step that shows it."""
        ...


def notes_of(decoder: Decoder) -> int:
    """How many numbers of each position a decoder keeps between steps; 0 for one that keeps none."""
    return decoder.notes if isinstance(decoder, Noting) else 0
