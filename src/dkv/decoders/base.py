"""What decoders share. The protocol itself is `dkv.plan.Decoder`."""

from __future__ import annotations

import torch
from torch import Tensor

from dkv.canvas import NEVER, Canvas
from dkv.plan import Step

__all__ = ["in_block", "no_order"]


def in_block(step: Step) -> Tensor:
    """[B, T] masked positions up to the active block's end (also ones left behind before it)."""
    return step.masked & (step.canvas.position < step.block[1][:, None])


def no_order(canvas: Canvas) -> Tensor:
    """The order of a decoder that cannot know it ahead."""
    return torch.full_like(canvas.tokens, NEVER)
