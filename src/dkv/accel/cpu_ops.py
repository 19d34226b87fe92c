"""What torch does faster on a CPU in other forms, with the same results: rows of a KV cache, and logits."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from dkv.core.kv_cache import CacheOps
from dkv.core.packing import PackedRows
from dkv.core.sampling import Greatest, LogitOps, log_confidence

__all__ = ["CellRows", "RowChunks"]

_AT_ONCE = 1 << 17
"""Logits that are passed over at once, several times."""
_GROUP, _MANY = 64, 1 << 16
"""So many logits are looked at in groups of so many."""


class CellRows(CacheOps):
    """Rows of a KV cache by one index: several times as fast on a CPU as by two, sequence and slot. The same rows in
    the same slots as in plain torch.

    A buffer [B, heads, T + 1, D] is looked at as the cells [M, D] that its storage holds one after the other, with
    others between them where it is a part of a larger one. The numbers of the carried rows' cells are the same for all
    layers.
    """

    def __init__(self) -> None:
        self._numbers = WeakKeyDictionary[PackedRows, dict[tuple[int, ...], Tensor]]()

    def write(self, buffer: Tensor, at: PackedRows, rows: Tensor) -> None:
        """Write rows [N, heads, D], of the buffer's dtype, into the slots of the carried rows."""
        _cells(buffer).index_copy_(0, self._of(buffer, at), rows.reshape(-1, buffer.shape[3]))

    def read(self, buffer: Tensor, at: PackedRows) -> Tensor:
        """What the slots of the carried rows hold, [N, heads, D]."""
        return _cells(buffer).index_select(0, self._of(buffer, at)).view(-1, *buffer.shape[1::2])

    def _of(self, buffer: Tensor, at: PackedRows) -> Tensor:
        """[N * heads] the numbers of the carried rows' cells, head by head of each row."""
        heads, size = buffer.shape[1::2]
        sequence, head = (stride // size for stride in buffer.stride()[:2])
        known = self._numbers.setdefault(at, {})
        if (heads, sequence, head) not in known:
            first = at.sequence * sequence + at.slot
            apart = torch.arange(0, heads * head, head)
            known[heads, sequence, head] = first if heads == 1 else (first[:, None] + apart).view(-1)
        return known[heads, sequence, head]


def _cells(buffer: Tensor) -> Tensor:
    (batch, heads, slots, size), (sequence, head) = buffer.shape, buffer.stride()[:2]
    last = (batch - 1) * sequence + (heads - 1) * head + (slots - 1) * size
    return buffer.as_strided((last // size + 1, size), (size, 1))


class RowChunks(LogitOps):
    """Passes over many logits in the order that suits a CPU's caches (benchmarks/compiled.py): the same results to the
    last bit, since each row's depend on that row alone."""

    def greatest(self, logits: Tensor) -> Greatest:
        """The greatest of each row of logits [M, V]. Of many, first the greatest of each group is found: without its
        place that takes a quarter of the time."""
        rows, vocab = logits.shape
        if logits.numel() < _MANY or vocab % _GROUP:
            return super().greatest(logits)
        groups = logits.view(rows, -1, _GROUP)
        first = groups.amax(2).max(dim=1).indices
        own = groups[torch.arange(rows), first].max(dim=1)
        return Greatest(first * _GROUP + own.indices, own.values)

    def log_confidence(self, logits: Tensor, token: Tensor, top: Greatest | None = None) -> Tensor:
        """Log-probability [M] of token [M] under softmax of logits [M, V], a few rows at a time: each is passed over
        several times, and should stay in the second-level cache."""
        top = self.greatest(logits) if top is None else top
        rows = max(1, _AT_ONCE // logits.shape[1])
        if len(logits) <= rows:
            return super().log_confidence(logits, token, top)
        parts = zip(*(torch.split(x, rows) for x in (logits, token, *top)), strict=True)
        return torch.cat([log_confidence(part, own, Greatest(*tops)) for part, own, *tops in parts])
