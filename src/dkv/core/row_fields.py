"""Dataclasses of tensors with a row for each sequence: a field says in its metadata what stands at padding, and from
that rows are selected, widened, cut and concatenated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["gathered", "joined", "per_position", "per_sequence"]

_ROWS = "rows"


def per_sequence() -> Mapping[str, Any]:
    """Metadata of a field [B, ...]."""
    return {_ROWS: None}


def per_position(fill: float, scratch: int = 0) -> Mapping[str, Any]:
    """Metadata of a field [B, T + scratch, ...] with `fill` at padding. What its scratch slots hold is not kept."""
    return {_ROWS: (fill, scratch)}


def gathered(source: DataclassInstance, rows: Tensor, width: int) -> dict[str, Tensor | None]:
    """The fields of the `rows` [N] (int64), in that order, cut or padded to `width` positions. What is cut must be
    padding."""
    found: dict[str, Tensor | None] = {}
    for one in _row_fields(source):
        value = getattr(source, one.name)
        found[one.name] = None if value is None else _fitted(one, value.index_select(0, rows), width)
    return found


def joined(sources: Sequence[DataclassInstance], counts: Sequence[int], width: int) -> dict[str, Tensor | None]:
    """The fields of all sources, of `counts` rows each, one after another, cut or padded to `width` positions. Where
    some lack an optional field, or have fewer columns of it, zeros stand in."""
    found: dict[str, Tensor | None] = {}
    for one in _row_fields(sources[0]):
        values = [getattr(source, one.name) for source in sources]
        found[one.name] = _stacked([None if v is None else _fitted(one, v, width) for v in values], counts)
    return found


def _row_fields(source: DataclassInstance) -> list[Field[Any]]:
    return [one for one in fields(source) if _ROWS in one.metadata]


def _fitted(one: Field[Any], x: Tensor, width: int) -> Tensor:
    """x [B, T + scratch, ...] with `width` positions instead of T."""
    if one.metadata[_ROWS] is None:
        return x
    fill, scratch = one.metadata[_ROWS]
    if x.shape[1] == width + scratch:
        return x
    x = x[:, : min(x.shape[1] - scratch, width)]
    missing = width + scratch - x.shape[1]
    return torch.cat((x, x.new_full((len(x), missing, *x.shape[2:]), fill)), dim=1) if missing else x.contiguous()


def _stacked(parts: Sequence[Tensor | None], counts: Sequence[int]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    if not known:
        return None
    if known[0].dim() < 3:
        return torch.cat(known)
    like, columns = known[0], max(part.shape[2] for part in known)
    return torch.cat([
        like.new_zeros((count, like.shape[1], columns)) if part is None else F.pad(part, (0, columns - part.shape[2]))
        for part, count in zip(parts, counts, strict=True)
    ])  # fmt: skip
