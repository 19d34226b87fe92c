"""Which rows one forward carries (`PackedRows`), and which of them a layer selects for itself (`RowSelection`).

Linears run on the flat carried rows, so that cost follows rows computed; only attention regroups them by sequence. It
knows masks and counts, and nothing of why a row was planned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Attention",
    "Bucket",
    "Counted",
    "Grouping",
    "PackedRows",
    "RowSelection",
    "Visibility",
    "exact",
    "pack",
    "select_rows",
]


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Where N carried rows sit in B sequences of T slots (slot T is scratch)."""

    sequence: Tensor
    """[N] which sequence."""
    slot: Tensor
    """[N] which slot of it."""
    slot_mapping: Tensor
    """[N] sequence * (T + 1) + slot."""
    width: int
    """T."""
    grouping: Grouping
    """The carried rows by sequence, for attention."""
    whole: bool
    """Every slot is carried."""
    mask: Tensor | None
    """[B, 1, 1, T] bool: slots that attention may read; None = all."""
    selection: RowSelection | None = None
    """How layers select rows of their own; None = no layer does."""
    index: Tensor | None = None
    """[N] of rows that a layer selected: which of the rows it carries they are; None = all of them."""
    real: Tensor | None = None
    """[N] bool: which rows do not only fill a bucket; None = all."""
    visible: Visibility | None = None
    """Which slots each row may attend to, of those that the mask allows; None = all."""

    @property
    def required_selection(self) -> RowSelection:
        """`selection`, for a layer that picks. Raises RuntimeError where the plan did not say what."""
        if self.selection is None:
            raise RuntimeError("a layer that picks rows needs a plan that says how many")
        return self.selection

    @property
    def uneven(self) -> bool:
        """Whether some sequence attends alone, in any layer: what is done then depends on numbers of the host."""
        return bool(self.grouping.alone or (self.selection is not None and self.selection.grouping.alone))

    @property
    def shape(self) -> tuple[int, int]:
        """(B, R): R rows of each of B sequences, where they are as many."""
        return self.grouping.shape

    def to_scratch(self, rows: Tensor) -> PackedRows:
        """The same places, but what `rows` [N] write goes to scratch."""
        slot = torch.where(rows, self.width, self.slot)
        return replace(self, slot=slot, slot_mapping=self.sequence * (self.width + 1) + slot, whole=False)

    def scatter(self, rows: Tensor, own: Tensor) -> Tensor:
        """rows [N, C] of all that the layer carries, those of the rows picked here being own [M, C]."""
        if self.index is None:
            return own
        if self.real is None:
            return rows.index_copy_(0, self.index, own)
        # What only fills the bucket bears the index of another row: it goes behind the last.
        place = torch.where(self.real, self.index, len(rows))
        return F.pad(rows, (0, 0, 0, 1)).index_copy_(0, place, own)[:-1]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attention: Attention) -> Tensor:
        """attention of the carried queries q [N, H, D] over the slots k, v [B, G, T, D] of their own sequence that they
        may see: [N, H * D]."""
        grouping = self.grouping
        mixed = grouping.flatten(attention(grouping.regroup(q), k, v, self._seen()))
        for row, rows in grouping.alone:
            own = slice(row, row + 1)
            one = attention(q[rows].transpose(0, 1)[None], k[own], v[own], self._seen(own, rows))
            mixed[rows] = one[0].transpose(0, 1).flatten(1)
        return mixed

    def _seen(self, own: slice | None = None, rows: slice | None = None) -> Tensor | None:
        """[B, 1, 1 or R, T] bool: slots that each sequence's rows may attend to; None = all. own, rows: of the sequence
        that attends alone."""
        mask = self.mask if self.mask is None or own is None else self.mask[own]
        if self.visible is None:
            return mask
        slots = self.slot.view(-1, 1, 1)
        queries = self.grouping.regroup(slots) if rows is None else slots[rows].transpose(0, 1)[None]
        seen = self.visible(queries, torch.arange(self.width, device=slots.device))
        return seen if mask is None else seen & mask


Visibility = Callable[[Tensor, Tensor], Tensor]
"""Which slots rows may attend to: rows' positions [..., R, 1] and slots' positions [T] to bool [..., R, T]. For
families whose attention is causal between blocks."""

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""softmax(q k') v for q [B, H, R, D], k and v [B, G, T, D], and a mask [B, 1, 1 or R, T] or None; to [B, H, R, D]."""


@dataclass(frozen=True, eq=False)
class Grouping:
    """Rows of B sequences side by side, [B, R], for attention."""

    shape: tuple[int, int]
    """(B, R)."""
    group: Tensor | None = None
    """[B, R] the rows of each sequence; None where every sequence has R rows, in order."""
    place: Tensor | None = None
    """[N] the way back from [B * R] to rows."""
    alone: tuple[tuple[int, slice], ...] = ()
    """Sequences with many more rows than the others, each with its rows: they attend by themselves, lest they make R
    large for all. What `flatten` gives for them is overwritten."""
    counts: tuple[int, ...] = ()
    """[B] rows of each sequence, on the host, where they are not regular."""

    def regroup(self, x: Tensor) -> Tensor:
        """[N, H, D] of rows to [B, H, R, D] by sequence."""
        x = x.view(*self.shape, *x.shape[1:]) if self.group is None else x[self.group]
        return x.transpose(1, 2)

    def flatten(self, x: Tensor) -> Tensor:
        """[B, H, R, D] by sequence to [N, H * D] of rows."""
        x = x.transpose(1, 2).reshape(-1, x.shape[1] * x.shape[3])
        return x if self.place is None else x[self.place]


@dataclass(frozen=True, eq=False)
class RowSelection:
    """How a layer selects M of the N carried rows: a number for each sequence, by scores that depend on the layer."""

    frozen: Tensor | None
    """[N] bool: rows selected after all others; None = none."""
    source: Tensor
    """[B, R] the carried rows of each sequence."""
    bias: Tensor
    """[B, R] added to scores: inf for rows selected first, -inf for frozen rows and for padding."""
    picks: Tensor
    """[B] rows to select of each sequence."""
    sequence: Tensor
    """[M] sequence of each selected row."""
    base: Tensor
    """[M] sequence * (T + 1)."""
    ranked: Tensor
    """[M] its place in [B, R], best first."""
    first: Tensor
    """[M] its sequence's first carried row."""
    real: Tensor | None
    """[M] bool: not only filling the bucket; None = all."""
    grouping: Grouping
    """The selected rows by sequence."""

    def pick(self, at: PackedRows, score: Tensor) -> PackedRows:
        """The carried rows with the highest score [N], ties to the lowest position."""
        # A sequence that is alone, and fills its bucket, has its scores side by side already.
        grid = score.view(1, -1) if self.source.shape == (1, len(score)) else score[self.source]
        order = (grid + self.bias).sort(dim=1, descending=True, stable=True).indices
        index = order.view(-1).index_select(0, self.ranked).add_(self.first)
        slot = at.slot.index_select(0, index)
        if self.real is not None:
            slot = torch.where(self.real, slot, at.width)
        return self.picked(at, index, slot, self.base + slot)

    def picked(self, at: PackedRows, index: Tensor, slot: Tensor, flat: Tensor) -> PackedRows:
        """The rows index [M] of those carried, which sit in slot [M], flat [M]."""
        return PackedRows(
            self.sequence,
            slot,
            flat,
            at.width,
            self.grouping,
            False,
            at.mask,
            index=index,
            real=self.real,
            visible=at.visible,
        )


class Counted(NamedTuple):
    """How many rows each sequence has: told on the host, and each [B] on the device. Made from one another they would
    cost a wait."""

    told: list[int]
    each: Tensor


def select_rows(
    at: PackedRows, counts: Counted, picks: Counted, forced: Tensor | None, frozen: Tensor | None, bucket: Bucket
) -> RowSelection:
    """Prepare every layer's pick of `picks` rows of each sequence, of which `counts` are carried; forced and frozen
    [B, T] or None."""
    batch, most, device = len(counts.told), max(counts.told), at.slot.device
    starts = _before(counts.each)
    source = (starts[:, None] + torch.arange(most, device=device)).clamp(max=len(at.slot) - 1)
    total = sum(picks.told)
    size = bucket(total) if total else 0
    sequence = torch.repeat_interleave(torch.arange(batch, device=device), picks.each, output_size=total)
    order = torch.arange(total, device=device) - _before(picks.each)[sequence]
    sequence, order = (F.pad(x, (0, size - total)) for x in (sequence, order))
    held = _carried(frozen, at)
    return RowSelection(
        frozen=held,
        source=source,
        bias=_bias(source, _carried(forced, at), held, torch.arange(most, device=device) >= counts.each[:, None]),
        picks=picks.each,
        sequence=sequence,
        base=sequence * (at.width + 1),
        ranked=sequence * most + order,
        first=starts[sequence],
        real=None if bucket is exact else torch.arange(size, device=device) < total,
        grouping=_grouping(picks, size, sequence),
    )


def _before(each: Tensor) -> Tensor:
    """[B] how many there are of the sequences before, where each [B] has so many."""
    return each.cumsum(0) - each


def _bias(source: Tensor, forced: Tensor | None, frozen: Tensor | None, absent: Tensor) -> Tensor:
    """`RowSelection.bias` of forced and frozen rows [N], and of absent ones [B, R]."""
    bias = torch.zeros(source.shape, device=source.device)
    if forced is not None:
        bias.masked_fill_(forced[source], torch.inf)
    if frozen is not None:
        bias.masked_fill_(frozen[source], -torch.inf)
    return bias.masked_fill_(absent, -torch.inf)


def _carried(flag: Tensor | None, at: PackedRows) -> Tensor | None:
    """A [B, T] flag of each carried row [N]; rows that only fill the bucket have none."""
    return None if flag is None else F.pad(flag, (0, 1)).view(-1)[at.slot_mapping]


Bucket = Callable[[int], int]
"""Rounds a number of rows up to a size that the kernels are prepared for."""


def exact(rows: int) -> int:
    """The bucket that adds nothing."""
    return rows


def pack(
    rows: Tensor, counts: list[int], mask: Tensor | None, bucket: Bucket = exact, carried: Tensor | None = None
) -> PackedRows:
    """Turn rows [B, T] bool, of which `counts` per sequence are set, into the places of N = bucket(sum) carried rows.
    carried [B]: the counts on the device, where they are there already.

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
    each = rows.sum(1) if carried is None else carried
    return PackedRows(sequence, slot, flat, width, _grouping(Counted(counts, each), size, sequence), whole, mask)


_UNEVEN = 2
"""Attention may take so many times the rows that are carried; beyond, the longest sequences attend alone."""


def _grouping(numbers: Counted, size: int, sequence: Tensor) -> Grouping:
    """How `size` rows, so many of each sequence in turn, regroup by sequence."""
    counts, device = numbers.told, sequence.device
    batch, total = len(counts), sum(counts)
    if batch == 1 or (size == total == batch * counts[0] and len(set(counts)) == 1):
        return Grouping((batch, size // batch))
    order, rank = sorted(range(batch), key=lambda row: -counts[row]), 0
    while rank < batch - 1 and batch * counts[order[rank]] > _UNEVEN * total:
        rank += 1
    spans, most = _spans(counts), max(counts[order[rank]], 1)
    first = _before(numbers.each)
    group = (first[:, None] + torch.arange(most, device=device)).clamp(max=size - 1)
    within = (torch.arange(size, device=device) - first[sequence]).clamp(max=most - 1)
    alone = tuple((row, spans[row]) for row in order[:rank])
    return Grouping((batch, most), group, sequence * most + within, alone, tuple(counts))


def _spans(counts: list[int]) -> list[slice]:
    """Where the rows of each sequence lie among all."""
    ends = list(accumulate(counts))
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
