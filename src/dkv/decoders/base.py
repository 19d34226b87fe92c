"""What a decoder is: an unmasking rule, which treats each sequence on its own."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dkv.canvas import NEVER, Canvas
from dkv.plan import Step
from dkv.sampling import Read

__all__ = ["Decoder", "in_block", "no_order"]


@runtime_checkable
class Decoder(Protocol):
    """The unmasking rule. It keeps nothing between steps: what it knows ahead is its order, what it learns is in Step."""

    def order(self, canvas: Canvas) -> Tensor:
        """[B, T] the commit order, 0 first, as far as it is known when the sequences join; NEVER where it is not."""
        ...

    def wanted(self, step: Step) -> Tensor:
        """[B, T] positions that it would read now: masked ones only. (`step.wanted` is not filled in yet.)"""
        ...

    def commit(self, step: Step, read: Read) -> Tensor:
        """[B, T] positions to fix now, each among those read."""
        ...


def in_block(step: Step) -> Tensor:
    """[B, T] masked positions up to the active block's end (also ones left behind before it)."""
    return step.masked & (step.canvas.position < step.block[1][:, None])


def no_order(canvas: Canvas) -> Tensor:
    """The order of a decoder that cannot know it ahead."""
    return torch.full_like(canvas.tokens, NEVER)
