"""Classifier-free guidance: each sequence has a guide row, the same response after a masked prompt, whose logits are
pushed away from: conditional + scale * (conditional - unconditional). Source: LLaDA (arXiv 2502.09992), on guidance.

A guide is a row of the canvas with slots of its own, so every cache serves it unchanged. A policy may let guides rest
for some steps (dLLM-Cache's cfg_interval); then the difference of the last step at which the guide ran stands in. It is
kept as hidden states rather than logits, which the vocabulary would make some thirty times larger.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dkv.core.canvas import Canvas
from dkv.core.model import Model
from dkv.core.packing import PackedRows

__all__ = ["Guidance"]


@dataclass
class Guidance:
    """scale [B]: how far to push each sequence, or one number for all; partner [B]: the guide of a sequence, and a
    guide itself."""

    canvas: Canvas
    scale: float | Tensor
    partner: Tensor = field(init=False)

    def __post_init__(self) -> None:
        own = torch.arange(len(self.canvas.tokens), device=self.canvas.tokens.device)
        self.partner = own.clone()
        if self.canvas.unconditional_of is not None:
            guides = self.canvas.unconditional_of >= 0
            self.partner[self.canvas.unconditional_of[guides]] = own[guides]

    def passes(self, rest: Tensor | None) -> int:
        """How often the head runs on what is read: for the sequences and their guides, and where guides may rest, for
        both as they were kept as well."""
        return 2 if rest is None else 3

    def keep(self, kept: Tensor | None, at: PackedRows, hidden: Tensor, rest: Tensor) -> Tensor:
        """Write the output hidden [N, C] of the carried rows whose guides did not rest [B] at this step into kept
        [B, T + 1, C], which is made at the first such step (None before)."""
        if kept is None:
            shape = len(self.partner), at.width + 1, hidden.shape[1]
            kept = torch.zeros(shape, dtype=hidden.dtype, device=hidden.device)
        ran = ~rest[self.partner][at.sequence]
        kept.view(-1, kept.shape[2])[torch.where(ran, at.slot_mapping, at.width)] = hidden
        return kept

    def apply(
        self, model: Model, logits: Tensor, sequence: Tensor, slot: Tensor, hidden: Tensor | None, kept: Tensor | None
    ) -> Tensor:
        """Guided logits [M, V] float32 from this step's own `logits` [M, V] of rows slot [M] of sequence [M], and the
        guides' hidden states [M, C] (None = from what was kept)."""
        logits = logits.float()
        scale = self.scale if isinstance(self.scale, float | int) else self.scale[sequence][:, None]
        if hidden is not None:
            return logits + scale * (logits - model.logits(hidden).float())
        if kept is None:
            raise RuntimeError("nothing was kept of the guides")
        own, guide = kept[sequence, slot], kept[self.partner[sequence], slot]
        return logits + scale * (model.logits(own).float() - model.logits(guide).float())
