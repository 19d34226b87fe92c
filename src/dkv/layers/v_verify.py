"""V-verify, the layer rule of dLLM-Cache (arXiv 2506.06295; its published program): recompute what drifted.

A layer keeps what it added to the stream, so that a row which is not recomputed still carries its new embedding
upwards, with a stale addition. Keys of such rows are stale, values always fresh: as published. (The program keeps what
attention added apart from what the feed-forward did. Both are always equally old, so that their sum does as well, in
half the memory.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dkv.core.kv_cache import LayerCache
from dkv.core.layer_rules import RotaryPhase
from dkv.core.packing import PackedRows
from dkv.layers.transformer import TransformerBlock

__all__ = ["ADDED", "Verify"]

ADDED = "added"
"""The buffer [B, 1, T + 1, C] of what a layer added to the stream."""


@dataclass(frozen=True)
class Verify:
    """V-verify: recompute the forced rows and the most drifted of the others, and keep what a layer adds to the stream.

    adaptive: whether rows that are not forced are looked at, and their values replaced, at all.
    """

    similarity: str
    adaptive: bool
    buffers: ClassVar[tuple[str, ...]] = (ADDED,)

    def __call__(
        self, block: TransformerBlock, x: Tensor, at: PackedRows, turn: RotaryPhase, memory: LayerCache
    ) -> Tensor:
        """One layer: x [N, C] of the carried rows to x [N, C]."""
        h, picked = block.pick(x, at, memory, self.similarity if self.adaptive else None)
        return block.recompute(x, h, at, picked, turn, memory, ADDED, values=not self.adaptive)

    def projected(self, carried: int, picked: int) -> int:
        """Looking at a row means projecting its values."""
        return carried if self.adaptive else picked
