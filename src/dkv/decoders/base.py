"""What decoders share. The protocol itself is `dkv.plan.Decoder`."""

from __future__ import annotations

import torch
from torch import Tensor

from dkv.canvas import NEVER, Canvas

__all__ = ["no_rank"]


def no_rank(canvas: Canvas) -> Tensor:
    """The order of a decoder that cannot know it ahead."""
    return torch.full_like(canvas.tokens, NEVER)
