"""Weights laid out once as the CPU's kernels multiply them.

A product of few rows spends most of its time bringing the weight into the kernel's layout, or reading it against the
grain: laid out ahead it takes 0.5 to 0.7 of the time up to 128 rows (benchmarks/layout.py). In float32 the kernel also
computes a row alike in any company, to the last bit. Only the kernels know how such a weight lies.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["laid_out", "linear", "plain"]

_TYPICAL_ROWS = 64
"""For so many rows the layout is chosen; on the processors tried it was the best for any number."""
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def laid_out(weight: Tensor) -> Tensor:
    """weight [O, C] in the layout of the kernels; as it is on other devices, in other dtypes, and where torch lacks
    them."""
    if weight.device.type != "cpu" or weight.dtype not in _DTYPES or not _has_kernels():
        return weight
    try:
        made: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS)
    except RuntimeError:  # a dtype that this processor's kernels lack
        return weight
    return made


def plain(weight: Tensor) -> Tensor:
    """A weight in the usual layout, the same numbers; itself if it is in it."""
    return weight.to_dense() if weight.is_mkldnn else weight


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [N, C] times weight [O, C], laid out or not, plus bias [O]: [N, O]."""
    if not weight.is_mkldnn:
        return F.linear(x, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def _has_kernels() -> bool:
    """What `torch.compile` packs weights with on a CPU: not documented, but the only way there."""
    kernels = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        hasattr(kernels, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )
