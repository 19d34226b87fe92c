"""The memory: one preallocated slot of keys and values per layer, sequence and position.

Attention always reads the whole buffer; a computed row overwrites its own slot first. Nothing is ever concatenated,
reordered or evicted. Keys are stored after the rotation, which is exact because a position never changes.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dkv.core.drift import Lengths, drift, whole_lengths
from dkv.core.packing import CellStrides, PackedRows

__all__ = ["MOVES", "KVCache", "LayerCache", "Moves"]


_WORD = torch.complex128
"""The widest type there is: 16 bytes."""


class Moves:
    """How rows go into the cells [M, D] of a buffer, and out of them, where those lie `apart`; as torch composes it."""

    def write(self, cells: Tensor, at: PackedRows, apart: CellStrides, rows: Tensor) -> None:
        """Put rows [N, heads, D] of the carried rows into their cells."""
        source = rows.reshape(-1, cells.shape[1]).contiguous()
        # A CPU writes rows by index element by element: in the widest elements that takes a third of the time.
        if cells.device.type == "cpu" and not torch.compiler.is_compiling() and _in_words(cells):
            cells, source = cells.view(_WORD), source.view(_WORD)
        cells.index_copy_(0, at.cells(apart), source)

    def renew(
        self,
        cells: Tensor,
        at: PackedRows,
        apart: CellStrides,
        rows: Tensor,
        similarity: str,
        frozen: Tensor | None,
        lengths: Lengths = whole_lengths,
    ) -> Tensor:
        """Put rows [N, heads, D] into their cells, but the frozen [N] ones, and say how far each moved, [N] float32."""
        moved = drift(rows, cells.index_select(0, at.cells(apart)).view(rows.shape), similarity, lengths)
        self.write(cells, at if frozen is None else at.to_scratch(frozen), apart, rows.to(cells.dtype))
        return moved

    def add_kept(self, cells: Tensor, numbers: Tensor, x: Tensor) -> Tensor:
        """x [N, D] plus what cells numbers [N] hold, in the dtype of x."""
        return cells.index_select(0, numbers).to(x.dtype).add_(x)


def _in_words(cells: Tensor) -> bool:
    return cells.shape[1] * cells.element_size() % _WORD.itemsize == 0


MOVES = Moves()
"""What a memory has unless it is given others."""


@dataclass(frozen=True, eq=False)
class LayerCache:
    """One layer's buffers: k and v, [B, kv_heads, T + 1, head_dim] each, and features of a rule, [B, 1, T + 1, C]. The
    last slot is scratch. moves: how rows go in and out; views: of each buffer, made once, since at few rows making them
    costs as much as using them."""

    buffers: dict[str, Tensor]
    moves: Moves = MOVES
    views: dict[str, _Views] = field(init=False, default_factory=dict)

    def write(self, name: str, at: PackedRows, value: Tensor) -> None:
        """Write value [N, kv_heads, head_dim] of the carried rows into their own slots."""
        views = self._of(name)
        if at.whole:
            views.slots.copy_(value.view(*at.shape, *value.shape[1:]).transpose(1, 2))
        elif len(value):
            same = value.dtype == views.cells.dtype
            self.moves.write(views.cells, at, views.apart, value if same else value.to(views.cells.dtype))

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
        views = self._of(name)
        return self.moves.renew(views.cells, at, views.apart, value, similarity, frozen, lengths)

    def take(self, name: str, at: PackedRows) -> Tensor:
        """What the slots of the carried rows hold, [N, heads, D]."""
        views = self._of(name)
        held = views.cells.index_select(0, at.cells(views.apart))
        return held.view(len(at.slot), *views.buffer.shape[1::2])

    def add_kept(self, name: str, at: PackedRows, x: Tensor) -> Tensor:
        """x [N, C] of the carried rows plus what their slots of a feature hold."""
        cells, apart = self.cells(name)
        return self.moves.add_kept(cells, at.starts(apart), x)

    def cells(self, name: str) -> tuple[Tensor, CellStrides]:
        """A buffer's cells [M, D], and how they lie."""
        views = self._of(name)
        return views.cells, views.apart

    @property
    def kv(self) -> tuple[Tensor, Tensor]:
        """Keys and values of every slot but scratch, [B, kv_heads, T, head_dim] each."""
        return self._of("k").slots, self._of("v").slots

    def _of(self, name: str) -> _Views:
        buffer = self.buffers[name]
        if torch.compiler.is_compiling():
            return _Views.of(buffer)
        if name not in self.views or self.views[name].buffer is not buffer:
            self.views[name] = _Views.of(buffer)
        return self.views[name]


@dataclass(frozen=True, eq=False)
class _Views:
    """A buffer [B, heads, T + 1, D]: its slots but scratch [B, heads, T, D]; its cells [N, D], which its storage holds
    one after the other, others between them where it is a part of a larger one: rows go in and out of these several
    times as fast as by three indices; heads, and by how many cells two sequences, and two heads, lie apart."""

    buffer: Tensor
    slots: Tensor
    cells: Tensor
    apart: CellStrides

    @classmethod
    def of(cls, buffer: Tensor) -> _Views:
        """Those of a buffer."""
        (batch, heads, slots, size), (sequence, head) = buffer.shape, buffer.stride()[:2]
        last = (batch - 1) * sequence + (heads - 1) * head + (slots - 1) * size
        cells = buffer.as_strided((last // size + 1, size), (size, 1))
        return cls(buffer, buffer[:, :, :-1], cells, CellStrides(heads, sequence // size, head // size))


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
        moves: Moves = MOVES,
    ) -> None:
        # Zeros, not empty: a masked slot has weight 0 in attention, and 0 times a stray NaN would be NaN.
        shape = (batch, kv_heads, width + 1, head_dim)
        self.layers = [
            LayerCache({name: torch.zeros(shape, dtype=dtype, device=device) for name in ("k", "v")}, moves)
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
            LayerCache({name: buffer[own, :, : width + 1] for name, buffer in layer.buffers.items()}, layer.moves)
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
