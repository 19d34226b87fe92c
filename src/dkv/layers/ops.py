"""The passes over the rows between products: norms, rotation, the choice of rows to recompute."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.layer_rules import RotaryPhase
from dkv.core.packing import PackedRows

__all__ = ["COMPOSED", "Passes", "rms_norm"]


class Passes:
    """Each for rows [N, ...] on any device."""

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMS norm of x [N, C]."""
        return rms_norm(x, weight, eps)

    def turn(self, x: Tensor, turn: RotaryPhase) -> Tensor:
        """x [N, heads, D] rotated; x itself may be written over."""
        return turn(x)

    def pick(self, at: PackedRows, score: Tensor) -> PackedRows:
        """The rows of the highest score [N], as many as `at.narrow` says. Raises RuntimeError where there is none."""
        return at.required_selection.pick(at, score)


COMPOSED = Passes()
"""What a model has unless others are built."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [N, C] over the root of its mean square, times weight [C]; in float32 at least."""
    if x.device.type != "cpu":
        return F.rms_norm(x, weight.shape, weight, eps)
    # On a CPU torch composes it of seven passes, of two dtypes at a time: these take half the time on many rows.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = torch.linalg.vector_norm(wide, dim=1, keepdim=True).square_().div_(x.shape[1]).add_(eps).rsqrt_()
    scaled: Tensor = wide * scale if wide is x else wide.mul_(scale)
    return scaled.to(x.dtype).mul_(weight)
