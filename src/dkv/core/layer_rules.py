"""Layer rules: how a layer's parts are composed, for the caches that pick rows layer by layer.

Most caches need none: every carried row passes through every layer (`DENSE`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dkv.core.kv_cache import LayerCache
from dkv.core.packing import PackedRows

__all__ = ["DENSE", "LayerRule", "RotaryPhase", "Rules"]


@dataclass(frozen=True, eq=False)
class RotaryPhase:
    """The rotation of the carried rows: cos and sin of each pair of channels, [N, 1, D / 2, 2] float32."""

    phase: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate x [N, heads, D], whose channels lie in pairs, in float32."""
        wide, phase = x.float(), torch.view_as_complex(self.phase)
        pairs = wide.view(torch.complex64)
        # A copy may be turned in place, for a fifth of the time that another one takes on many rows.
        turned = pairs * phase if wide is x else pairs.mul_(phase)
        return turned.view(torch.float32).to(x.dtype)


class LayerRule(Protocol):
    """How a layer's parts are composed. Hashable. buffers: names of the feature buffers that it keeps."""

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the feature buffers that it keeps between forwards."""
        ...

    def projected(self, carried: int, picked: int) -> int:
        """How many rows' values it projects, of the carried ones, where it recomputes the picked ones: for counts of
        the work done."""
        ...

    def __call__(self, block: Any, x: Tensor, at: PackedRows, turn: RotaryPhase, memory: LayerCache) -> Tensor:
        """One layer: x [N, C] of the carried rows, where they sit, their rotation, the layer's memory; to x [N, C].
        block: its operations, `dkv.layers.transformer.TransformerBlock`, which the core knows nothing of."""
        ...


@dataclass(frozen=True)
class Rules:
    """Which composition of a block's parts each layer uses; hashable, so that sequences with equal rules share one
    forward. first: layer 0, rest: the layers above; None = dense. A rule that is given computes the rows that it picks
    by `PackedRows.narrow`, and names the feature buffers that it keeps in `buffers`."""

    first: LayerRule | None = None
    rest: LayerRule | None = None

    @property
    def dense(self) -> bool:
        """Whether every layer is dense. Unlike a comparison it asks no rule, which another package may have written."""
        return self.first is None and self.rest is None

    @property
    def buffers(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the feature buffers that layer 0 keeps, and of those that each other layer does."""
        first, rest = (() if rule is None else rule.buffers for rule in (self.first, self.rest))
        return first, rest

    def of(self, layer: int) -> LayerRule | None:
        """The rule of a layer."""
        return self.rest if layer else self.first

    def runs(self, layers: int) -> list[tuple[LayerRule | None, slice]]:
        """Which of `layers` layers use which rule, one after the other."""
        if self.first == self.rest or layers == 1:
            return [(self.first, slice(0, layers))]
        return [(self.first, slice(0, 1)), (self.rest, slice(1, layers))]

    def narrowed(self, layers: int) -> int:
        """How many of `layers` layers compute only the rows that they pick."""
        return (self.first is not None) + (layers - 1) * (self.rest is not None)


DENSE = Rules()
"""Every layer dense."""
