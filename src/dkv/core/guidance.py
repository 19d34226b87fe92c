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
    guide itself; kept [B * (T + 1), C]: the output of the rows at the last step at which their guide ran, only where
    guides rest."""

    canvas: Canvas
    scale: float | Tensor
    partner: Tensor = field(init=False)
    kept: Tensor | None = field(init=False, default=None)

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

    def keep(self, at: PackedRows, hidden: Tensor, rest: Tensor) -> None:
        """Keep the output hidden [N, C] of the carried rows whose guides did not rest [B] at this step."""
        if self.kept is None:
            rows = len(self.partner) * (at.width + 1)
            self.kept = torch.zeros(rows, hidden.shape[1], dtype=hidden.dtype, device=hidden.device)
        ran = ~rest[self.partner][at.sequence]
        self.kept[torch.where(ran, at.slot_mapping, at.width)] = hidden

    def apply(self, model: Model, logits: Tensor, sequence: Tensor, slot: Tensor, hidden: Tensor | None) -> Tensor:
        """Guided logits [M, V] float32 from this step's own `logits` [M, V] of rows slot [M] of sequence [M], and the
        guides' hidden states [M, C] (None = from what was kept)."""
        logits = logits.float()
        scale = self.scale if isinstance(self.scale, float | int) else self.scale[sequence][:, None]
        if hidden is not None:
            return logits + scale * (logits - model.logits(hidden).float())
        if self.kept is None:
            raise RuntimeError("nothing was kept of the guides")
        grid = self.kept.view(len(self.partner), -1, self.kept.shape[1])
        own, guide = grid[sequence, slot], grid[self.partner[sequence], slot]
        return logits + scale * (model.logits(own).float() - model.logits(guide).float())
