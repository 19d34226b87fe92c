"""What a cache policy sees (`Step`), what it answers (`Plan`), and where the planned rows sit (`At`).

A policy is one function from the state of the canvas to the boolean mask of rows to compute. Everything that is not
computed is read from the slots as they were left; that is all that caching is here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.canvas import Canvas
from dkv.sampling import Read

__all__ = ["At", "Bucket", "CachePolicy", "Decoder", "Plan", "Step", "exact", "pack", "readers_of"]


@dataclass(frozen=True)
class Step:
    """All that a policy or a decoder may look at before a forward. Row by row; B sequences, T positions.

    clock [B]: forwards of this sequence so far. index [B], steps [B]: step within the active block, and steps of that
    block. block: start and end [B] of the active block. wanted [B, T]: positions that the decoder would read now.
    rank [B, T]: the decoder's expected commit order, 0 first, NEVER where unknown. score [B, T]: confidence last read
    there, -inf before. fresh [B, T]: tokens changed since the previous forward. computed_at [B, T]: clock at which each
    slot was computed, NEVER before. shift: 1 where row p predicts token p + 1 (and row 0 also itself), else 0. The
    canvas is the live one: it moves on with the commit.
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
    """What one forward computes. rows [B, T]: carried through the network; the core adds the rows that predict
    `wanted`, so that no token is ever chosen from a stale row. visible [B, T]: slots that attention may read, None =
    all live ones."""

    rows: Tensor
    visible: Tensor | None = None


@runtime_checkable
class CachePolicy(Protocol):
    """A cache: stateless, each sequence treated on its own."""

    def plan(self, step: Step) -> Plan:
        """Choose the rows to compute."""
        ...


@runtime_checkable
class Decoder(Protocol):
    """An unmasking rule. It keeps nothing between steps: what it knows ahead is its order, what it learns is in Step.
    Each sequence is treated on its own."""

    def rank(self, canvas: Canvas) -> Tensor:
        """[B, T] the commit order, 0 first, as far as it is known when the sequences join; NEVER where it is not."""
        ...

    def wanted(self, step: Step) -> Tensor:
        """[B, T] positions that it would read now: masked ones only. (`step.wanted` is not filled in yet.)"""
        ...

    def commit(self, step: Step, read: Read) -> Tensor:
        """[B, T] positions to fix now, each among those read."""
        ...


@dataclass(frozen=True)
class At:
    """Where N carried rows sit in B sequences of T slots (slot T is scratch).

    sequence [N] and slot [N], flat [N] = sequence * (T + 1) + slot; shape (B, R); group [B, R] indexes the carried rows
    of each sequence, None where they are regular (every sequence has R rows, in order); place [N] is the way back;
    whole: every slot is carried; mask [B, 1, 1, T]: slots that attention may read, None = all.
    """

    sequence: Tensor
    slot: Tensor
    flat: Tensor
    shape: tuple[int, int]
    group: Tensor | None
    place: Tensor | None
    whole: bool
    mask: Tensor | None

    def regroup(self, x: Tensor) -> Tensor:
        """[N, H, D] of carried rows to [B, H, R, D] by sequence."""
        x = x.view(*self.shape, *x.shape[1:]) if self.group is None else x[self.group]
        return x.transpose(1, 2)

    def flatten(self, x: Tensor) -> Tensor:
        """[B, H, R, D] by sequence to [N, H * D] of carried rows."""
        x = x.transpose(1, 2).flatten(0, 1).flatten(1)
        return x if self.place is None else x[self.place]


Bucket = Callable[[int], int]
"""Rounds a number of rows up to a size that the kernels are prepared for."""


def exact(rows: int) -> int:
    """The bucket that adds nothing."""
    return rows


def pack(rows: Tensor, counts: list[int], mask: Tensor | None, bucket: Bucket = exact) -> At:
    """Turn rows [B, T] bool, of which `counts` per sequence are set, into the places of N = bucket(sum) carried rows.

    Ascending by sequence and slot. Rows that only fill the bucket point at sequence 0's scratch slot T, which nothing
    ever reads, so raggedness needs no branch and their writes do no harm.
    """
    batch, width = rows.shape
    total = sum(counts)
    whole = total == batch * width
    size = total if whole else bucket(total)
    grid = F.pad(rows, (0, 1)).view(-1)
    flat = torch.nonzero_static(grid, size=size, fill_value=width).view(-1)
    sequence, slot = flat // (width + 1), flat % (width + 1)
    if batch == 1 or (size == total == batch * counts[0] and len(set(counts)) == 1):
        return At(sequence, slot, flat, (batch, size // batch), None, None, whole, mask)
    most = max(counts)
    first = torch.tensor([0, *counts[:-1]], device=rows.device).cumsum(0)
    order = torch.arange(most, device=rows.device)
    group = (first[:, None] + order).clamp(max=size - 1)
    within = (torch.arange(size, device=rows.device) - first[sequence]).clamp(max=most - 1)
    return At(sequence, slot, flat, (batch, most), group, sequence * most + within, whole, mask)
