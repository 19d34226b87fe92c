"""The KV cache: one preallocated slot of keys and values per layer, sequence and position.

Attention always reads the whole buffer; a computed row overwrites its own slot first. Nothing is ever concatenated,
reordered or evicted. Keys are stored after the rotation, which is exact because a position never changes.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from dkv.core.drift import Lengths, drift, whole_lengths
from dkv.core.packing import PackedRows

__all__ = ["PLAIN_CACHE_OPS", "CacheOps", "KVCache", "LayerCache"]


class CacheOps:
    """How rows go in and out of a buffer [B, heads, T + 1, D], in plain torch; a model may have a faster way to the
    same."""

    def write(self, buffer: Tensor, at: PackedRows, rows: Tensor) -> None:
        """Write rows [N, heads, D], of the buffer's dtype, into the slots of the carried rows."""
        buffer.transpose(1, 2)[at.sequence, at.slot] = rows

    def read(self, buffer: Tensor, at: PackedRows) -> Tensor:
        """What the slots of the carried rows hold, [N, heads, D]."""
        return buffer.transpose(1, 2)[at.sequence, at.slot]


PLAIN_CACHE_OPS = CacheOps()
"""What a memory has unless it is given others."""


@dataclass(frozen=True, eq=False)
class LayerCache:
    """One layer's buffers."""

    buffers: dict[str, Tensor]
    """k and v, [B, kv_heads, T + 1, head_dim] each, and features of a rule, [B, 1, T + 1, C]; slot T is scratch."""
    ops: CacheOps = PLAIN_CACHE_OPS

    def write(self, name: str, at: PackedRows, value: Tensor) -> None:
        """Write value [N, kv_heads, head_dim] of the carried rows into their own slots."""
        buffer = self.buffers[name]
        if at.whole:
            _slots(buffer).copy_(value.view(*at.shape, *value.shape[1:]).transpose(1, 2))
        else:
            self.ops.write(buffer, at, value.to(buffer.dtype))

    def take(self, name: str, at: PackedRows) -> Tensor:
        """What the slots of the carried rows hold, [N, kv_heads, head_dim]."""
        return self.ops.read(self.buffers[name], at)

    def renew(
        self,
        name: str,
        at: PackedRows,
        value: Tensor,
        similarity: str,
        frozen: Tensor | None,
        lengths: Lengths = whole_lengths,
    ) -> Tensor:
        """Write value [N, kv_heads, head_dim] of the carried rows into their own slots, but that of frozen [N] rows;
        how far each moved from what its slot held, by "cosine" or "l2", [N] float32. lengths: of the vectors."""
        moved = drift(value, self.take(name, at), similarity, lengths)
        self.write(name, at if frozen is None else at.to_scratch(frozen), value)
        return moved

    def add_kept(self, name: str, at: PackedRows, x: Tensor) -> Tensor:
        """x [N, C] of the carried rows plus what their slots of a feature hold."""
        return self.take(name, at).squeeze(1).to(x.dtype).add_(x)

    @property
    def kv(self) -> tuple[Tensor, Tensor]:
        """Keys and values of every slot but scratch, [B, kv_heads, T, head_dim] each."""
        return _slots(self.buffers["k"]), _slots(self.buffers["v"])


def _slots(buffer: Tensor) -> Tensor:
    """The slots [B, heads, T, D] of a buffer but scratch."""
    return buffer.narrow(2, 0, buffer.shape[2] - 1)


class KVCache:
    """The buffers of all layers. When each slot was computed stands in `SequenceState.computed_at`."""

    def __init__(
        self,
        layers: int,
        batch: int,
        kv_heads: int,
        width: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        ops: CacheOps = PLAIN_CACHE_OPS,
    ) -> None:
        # Zeros, not empty: a masked slot has weight 0 in attention, and 0 times a stray NaN would be NaN.
        shape = (batch, kv_heads, width + 1, head_dim)
        self.layers = [
            LayerCache({name: torch.zeros(shape, dtype=dtype, device=device) for name in ("k", "v")}, ops)
            for _ in range(layers)
        ]

    @property
    def shape(self) -> tuple[int, int]:
        """How many sequences it has room for, and how many slots each has, scratch aside."""
        batch, _, slots, _ = self.layers[0].buffers["k"].shape
        return int(batch), int(slots) - 1

    def keep(self, names: tuple[tuple[str, ...], tuple[str, ...]], width: int) -> None:
        """Make sure of the feature buffers [B, 1, T + 1, width] with these names, of layer 0 and of each other layer:
        `Rules.buffers`."""
        for number, layer in enumerate(self.layers):
            k = layer.buffers["k"]
            for name in names[number > 0]:
                if name not in layer.buffers:
                    layer.buffers[name] = torch.zeros((len(k), 1, k.shape[2], width), dtype=k.dtype, device=k.device)

    def part(self, count: int, width: int, first: int = 0) -> KVCache:
        """The first `width` slots of `count` sequences, from `first` on, of the same buffers; slot `width` is its
        scratch, so no sequence there may be longer."""
        part, own = copy(self), slice(first, first + count)
        part.layers = [
            LayerCache({name: buffer[own, :, : width + 1] for name, buffer in layer.buffers.items()}, layer.ops)
            for layer in self.layers
        ]
        return part

    def move(self, source: int, target: int, width: int) -> None:
        """Copy what one sequence's first `width` slots hold to another's place."""
        for layer in self.layers:
            for buffer in layer.buffers.values():
                buffer[target, :, :width] = buffer[source, :, :width]

    def clear(self, place: int) -> None:
        """Zero what a sequence left: no weight hides a NaN in it from whoever comes to its place."""
        for layer in self.layers:
            for buffer in layer.buffers.values():
                buffer[place].zero_()

    @property
    def nbytes(self) -> int:
        """Bytes held by the buffers."""
        return sum(b.numel() * b.element_size() for layer in self.layers for b in layer.buffers.values())
