"""Where the rows that one forward carries sit (`At`), and which of them a layer picks for itself (`Narrowing`).

Linears run on the flat carried rows, so that cost follows rows computed; only attention regroups them by sequence. It
knows masks and counts, and nothing of why a row was planned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["At", "Bucket", "Narrowing", "exact", "narrow", "pack"]


@dataclass(frozen=True)
class At:
    """Where N carried rows sit in B sequences of T slots (slot T is scratch).

    sequence [N] and slot [N], flat [N] = sequence * (T + 1) + slot; width T; shape (B, R); group [B, R] indexes the
    carried rows of each sequence, None where they are regular (every sequence has R rows, in order); place [N] is the
    way back; whole: every slot is carried; mask [B, 1, 1, T]: slots that attention may read, None = all; narrow: for
    layers that pick rows of their own, None = no layer does.
    """

    sequence: Tensor
    slot: Tensor
    flat: Tensor
    width: int
    shape: tuple[int, int]
    group: Tensor | None
    place: Tensor | None
    whole: bool
    mask: Tensor | None
    narrow: Narrowing | None = None

    def sheltered(self, rows: Tensor) -> At:
        """The same places, but what `rows` [N] write goes to scratch."""
        return replace(self, slot=torch.where(rows, self.width, self.slot), whole=False)

    def regroup(self, x: Tensor) -> Tensor:
        """[N, H, D] of carried rows to [B, H, R, D] by sequence."""
        x = x.view(*self.shape, *x.shape[1:]) if self.group is None else x[self.group]
        return x.transpose(1, 2)

    def flatten(self, x: Tensor) -> Tensor:
        """[B, H, R, D] by sequence to [N, H * D] of carried rows."""
        x = x.transpose(1, 2).flatten(0, 1).flatten(1)
        return x if self.place is None else x[self.place]


@dataclass(frozen=True)
class Narrowing:
    """How a layer picks M of the N carried rows: so many of each sequence, which depends on the layer.

    forced, frozen [N] bool: to be picked before, and after, all others; None = no row is. source [B, R]: the carried
    rows of each sequence, absent [B, R] where there is none. sequence [M] and order [M]: each picked row is its
    sequence's order-th by score; real [M]: not only filling the bucket. shape, group, place as in `At`.
    """

    forced: Tensor | None
    frozen: Tensor | None
    source: Tensor
    absent: Tensor
    sequence: Tensor
    order: Tensor
    real: Tensor
    shape: tuple[int, int]
    group: Tensor | None
    place: Tensor | None

    def pick(self, at: At, score: Tensor) -> tuple[Tensor, At]:
        """The carried rows [M] with the highest score [N], ties to the lowest position, and where they sit."""
        if self.forced is not None:
            score = score.masked_fill(self.forced, torch.inf)
        if self.frozen is not None:
            score = score.masked_fill(self.frozen, -torch.inf)
        ranked = score[self.source].masked_fill(self.absent, -torch.inf).sort(dim=1, descending=True, stable=True)
        index = self.source[self.sequence, ranked.indices[self.sequence, self.order]]
        scratch = at.width
        slot = torch.where(self.real, at.slot[index], scratch)
        flat = self.sequence * (scratch + 1) + slot
        return index, At(self.sequence, slot, flat, scratch, self.shape, self.group, self.place, False, at.mask)


def narrow(
    at: At, counts: list[int], picks: list[int], forced: Tensor | None, frozen: Tensor | None, bucket: Bucket
) -> Narrowing:
    """Prepare every layer's pick of `picks` rows of each sequence, of which `counts` are carried; forced and frozen
    [B, T] or None."""
    batch, most, device = len(counts), max(counts), at.slot.device
    source = torch.arange(batch * most, device=device).view(batch, most) if at.group is None else at.group
    own = torch.tensor(counts, device=device)
    absent = torch.arange(most, device=device) >= own[:, None]
    total = sum(picks)
    size = bucket(total) if total else 0
    amount = torch.tensor(picks, device=device)
    sequence = torch.repeat_interleave(torch.arange(batch, device=device), amount, output_size=total)
    first = F.pad(amount.cumsum(0), (1, 0))[:-1]
    order = torch.arange(total, device=device) - first[sequence]
    sequence, order = (F.pad(x, (0, size - total)) for x in (sequence, order))
    shape, group, place = _grouping(picks, size, sequence, device)
    return Narrowing(
        forced=_carried(forced, at),
        frozen=_carried(frozen, at),
        source=source,
        absent=absent,
        sequence=sequence,
        order=order,
        real=torch.arange(size, device=device) < total,
        shape=shape,
        group=group,
        place=place,
    )


def _carried(flag: Tensor | None, at: At) -> Tensor | None:
    """A [B, T] flag of each carried row [N]; rows that only fill the bucket have none."""
    return None if flag is None else F.pad(flag, (0, 1)).view(-1)[at.flat]


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
    return At(sequence, slot, flat, width, *_grouping(counts, size, sequence, rows.device), whole, mask)


def _grouping(
    counts: list[int], size: int, sequence: Tensor, device: torch.device
) -> tuple[tuple[int, int], Tensor | None, Tensor | None]:
    """How `size` rows, `counts` of each sequence in turn, regroup by sequence: shape, group and place of `At`."""
    batch, total, most = len(counts), sum(counts), max(counts)
    if batch == 1 or (size == total == batch * counts[0] and len(set(counts)) == 1):
        return (batch, size // batch), None, None
    first = torch.tensor([0, *counts[:-1]], device=device).cumsum(0)
    group = (first[:, None] + torch.arange(most, device=device)).clamp(max=size - 1)
    within = (torch.arange(size, device=device) - first[sequence]).clamp(max=most - 1)
    return (batch, most), group, sequence * most + within
