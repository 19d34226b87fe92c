"""What a part of a network keeps of a checkpoint: one tensor each, with all that loading and saving must know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from dkv.layers.quantized import pack
from dkv.layers.rotary import paired, unpaired

__all__ = ["Parameter"]


@dataclass(frozen=True)
class Parameter:
    """One tensor of a network, and the tensors of a checkpoint that it is made of."""

    stacked: Mapping[str, tuple[int, ...]]
    """Names and shapes in the checkpoint, in the order in which they are stacked along their first dimension."""
    cut: int | None = None
    """The dimension that is shared out over ranks; None = every rank holds the whole."""
    layout: Callable[[Tensor], Any] | None = None
    """How it is laid out for the kernels where rows are multiplied by it, and nothing else reads it; None = not at all.
    Only such weights are packed."""
    rotary: tuple[int, int | None] | None = None
    """(head_dim, rotary_dim) where its channels lie in pairs here, and apart in the checkpoint (`rotary.paired`)."""

    def under(self, prefix: str) -> Parameter:
        """The same with a prefix before its names."""
        return replace(self, stacked={prefix + name: shape for name, shape in self.stacked.items()})

    def held(self, stacked: Tensor, quantize: str | None, arrange: bool) -> Any:
        """The tensor as the network holds it, of the checkpoint's; quantize: as what it is packed, None = plain;
        arrange: whether it is laid out for the kernels. Raises SettingError where it cannot be packed."""
        weight = stacked if self.rotary is None else paired(stacked, *self.rotary)
        if self.layout is None:
            return weight
        if quantize is not None:
            return pack(quantize, weight)
        return self.layout(weight) if arrange else weight

    def published(self, weight: Tensor) -> Tensor:
        """The other way round, for a plain tensor in the usual layout."""
        return weight if self.rotary is None else unpaired(weight, *self.rotary)
