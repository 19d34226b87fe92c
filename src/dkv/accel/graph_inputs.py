"""A forward's inputs as buffers that stay where they are: copies, what must be equal for them to serve, and renewal.

A recorded forward reads the addresses that it was recorded with. So the places of the rows (`PackedRows`) are copied
into tensors of its own before each replay; all that is no tensor is part of what it was recorded for."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor
from torch.nn import functional as F

from dkv.core.kv_cache import KVCache
from dkv.core.packing import Bucket, Grouping, PackedRows, RowSelection

__all__ = ["address_of", "copied", "fitted", "renew", "sheltering", "signature"]

T = TypeVar("T")


def signature(value: object) -> Hashable:
    """What two values must have in common for one's tensors to be copied over the other's: shapes and dtypes, and all
    else as it is. Of tensors, dataclasses of them, and hashable values."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if is_dataclass(value):
        return tuple(signature(getattr(value, name)) for name in _names(value))
    return value if isinstance(value, Hashable) else repr(value)


def copied(value: T) -> T:
    """The same with tensors of its own."""

    def copy(part: object) -> object:
        if isinstance(part, Tensor):
            return part.clone()
        if is_dataclass(part) and not isinstance(part, type):
            return replace(part, **{name: copy(getattr(part, name)) for name in _names(part)})
        return part

    return copy(value)  # type: ignore[return-value]


def renew(held: object, value: object) -> None:
    """Copy the tensors of `value` over those of `held`, which has its signature."""
    for own, new in zip(_tensors(held), _tensors(value), strict=True):
        own.copy_(new)


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for name in _names(value):
            yield from _tensors(getattr(value, name))


def _names(value: Any) -> list[str]:
    """The fields of a dataclass."""
    return [field.name for field in fields(value)]


def address_of(memory: KVCache) -> Hashable:
    """Where a memory's buffers are and how they lie: equal for two memories only if they are the same bytes."""
    first = memory.layers[0].buffers
    lie = tuple((name, tuple(b.shape), b.stride(), b.dtype) for name, b in first.items())
    return lie, tuple(b.data_ptr() for layer in memory.layers for b in layer.buffers.values())


def sheltering(at: PackedRows) -> PackedRows:
    """Places of its own for a rehearsal: all that it writes goes to scratch. `at` must not be `whole`."""
    own = copied(at)
    own.slot.fill_(at.width)
    own.slot_mapping.fill_(at.width)
    return own


def fitted(at: PackedRows, bucket: Bucket) -> PackedRows:
    """The same places, more alike: never `whole` (its rows are written one by one), and where sequences have unequal
    numbers of rows, as many for each as the bucket says. What is added is never looked at."""
    narrow = None if at.selection is None else _narrowing(at.selection, bucket)
    return replace(at, whole=False, grouping=_grouping(at.grouping, bucket), selection=narrow)


def _grouping(grouping: Grouping, bucket: Bucket) -> Grouping:
    if grouping.group is None or grouping.place is None:
        return grouping
    batch, rows = grouping.shape
    wide = bucket(rows)
    place = grouping.place // rows * wide + grouping.place % rows
    return Grouping((batch, wide), F.pad(grouping.group, (0, wide - rows)), place, grouping.alone)


def _narrowing(narrow: RowSelection, bucket: Bucket) -> RowSelection:
    rows = narrow.source.shape[1]
    more = (0, bucket(rows) - rows)
    ranked = narrow.ranked // rows * bucket(rows) + narrow.ranked % rows
    return replace(
        narrow,
        source=F.pad(narrow.source, more),
        bias=F.pad(narrow.bias, more, value=float("-inf")),
        ranked=ranked,
        grouping=_grouping(narrow.grouping, bucket),
    )
