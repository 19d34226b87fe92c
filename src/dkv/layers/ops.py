"""RMS norm, in the form that suits the device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["rms_norm"]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [N, C] over the root of its mean square, times weight [C]; in float32 at least."""
    if x.device.type != "cpu":
        return F.rms_norm(x, weight.shape, weight, eps)
    # On a CPU torch composes it of seven passes, of two dtypes at a time: these take half the time on many rows.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = torch.linalg.vector_norm(wide, dim=1, keepdim=True).square_().div_(x.shape[1]).add_(eps).rsqrt_()
    scaled: Tensor = wide * scale if wide is x else wide.mul_(scale)
    return scaled.to(x.dtype).mul_(weight)
