"""Layer rules: how a layer's parts are composed, for the caches that pick rows layer by layer.

Most caches need none: every carried row passes through every layer (`DENSE`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dkv.core.kv_cache import LayerCache
from dkv.core.packing import PackedRows

__all__ = ["DENSE", "LayerOps", "LayerRule", "RotaryPhase", "Rules"]


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


class LayerOps(Protocol):
    """One layer as verbs, which a rule composes. N rows, C model width, H query and G key/value heads, D head size."""

    @property
    def attn_norm(self) -> Tensor:
        """Weight [C] of the norm before attention."""
        ...

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm of x [N, C]."""
        ...

    def qk(self, h: Tensor, turn: RotaryPhase) -> tuple[Tensor, Tensor]:
        """Rotated queries [N, H, D] and keys [N, G, D] of h [N, C]."""
        ...

    def value(self, h: Tensor) -> Tensor:
        """Values [N, G, D] of h [N, C]."""
        ...

    def pick(self, x: Tensor, at: PackedRows, memory: LayerCache, similarity: str | None) -> tuple[Tensor, PackedRows]:
        """x [N, C] of the carried rows once normed, and those to recompute, as many of each sequence as the plan asked
        for: the ones whose values moved most over all heads of the model, by "cosine" or "l2". The values go into their
        slots, but those of frozen rows. None: none is looked at or renewed, and the lowest positions are picked. Raises
        RuntimeError where the plan did not say how many."""
        ...

    def attend(self, q: Tensor, k: Tensor, v: Tensor, at: PackedRows) -> Tensor:
        """Attention of the carried queries over every slot, projected: [N, C]."""
        ...

    def attend_and_write(
        self, h: Tensor, at: PackedRows, turn: RotaryPhase, memory: LayerCache, values: bool = True
    ) -> Tensor:
        """What attention adds to the carried rows, [N, C], of which h [N, C] are the normed ones: their keys go into
        their slots, and with `values` their values; then they attend."""
        ...

    def recompute(
        self,
        x: Tensor,
        h: Tensor,
        at: PackedRows,
        picked: PackedRows,
        turn: RotaryPhase,
        memory: LayerCache,
        name: str,
        values: bool = True,
    ) -> Tensor:
        """`mix` and `mlp` of the picked ones of the carried rows x [N, C], h [N, C] once normed; what the two add is
        kept in the feature buffer `name`. Of these rows the ordinary layer's result, and of the others x plus what is
        kept there, [N, C]."""
        ...

    def mlp(self, x: Tensor) -> Tensor:
        """The feed-forward of x [N, C], norm included, residual not."""
        ...


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

    def __call__(self, block: LayerOps, x: Tensor, at: PackedRows, turn: RotaryPhase, memory: LayerCache) -> Tensor:
        """x [N, C] of the carried rows, where they sit, their rotation, the layer's memory; to x [N, C]."""
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
