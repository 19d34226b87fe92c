"""Weights laid out once as the CPU's kernels multiply them.

A product of few rows spends most of its time bringing the weight into the kernel's layout, or reading it against the
grain: laid out ahead it takes 0.5 to 0.7 of the time up to 128 rows (benchmarks/layout.py). In float32 the kernel also
computes a row alike in any company, to the last bit. Only the kernels know how such a weight lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Gates", "gated", "laid_out", "laid_out_gates", "linear", "plain"]

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


@dataclass(frozen=True, eq=False)
class Gates:
    """The weights of a gated product, each [F, C] and laid out: what one product gives goes through its activation, or
    times the other's result, before it is written, for less than a pass over it takes."""

    gate: Tensor
    up: Tensor


def laid_out_gates(weight: Tensor) -> Tensor | Gates:
    """weight [2 F, C], gate above up, as `laid_out` has it."""
    gate, up = (laid_out(half) for half in weight.chunk(2))
    return Gates(gate, up) if gate.is_mkldnn else weight


def plain(weight: Tensor | Gates) -> Tensor:
    """A weight in the usual layout, the same numbers; itself if it is in it."""
    if isinstance(weight, Gates):
        return torch.cat((plain(weight.gate), plain(weight.up)))
    return weight.to_dense() if weight.is_mkldnn else weight


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [N, C] times weight [O, C], laid out or not, plus bias [O]: [N, O]."""
    if not weight.is_mkldnn:
        return F.linear(x, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return product


def gated(x: Tensor, weight: Tensor | Gates, bias: Tensor | None = None) -> Tensor:
    """silu(x gate') (x up') of x [N, C], weight [2 F, C], laid out or not, and bias [2 F] of both products: [N, F]."""
    if not isinstance(weight, Gates):
        gate, up = linear(x, weight, bias).chunk(2, dim=1)
        return F.silu(gate).mul_(up)
    kernel, (gate_bias, up_bias) = torch.ops.mkldnn._linear_pointwise, (None, None) if bias is None else bias.chunk(2)
    active = kernel.default(x, weight.gate, gate_bias, "swish", [], "")
    product: Tensor = kernel.binary(x, active, weight.up, up_bias, "mul")
    return product


def _has_kernels() -> bool:
    """What `torch.compile` packs weights with on a CPU: not documented, but the only way there."""
    kernels = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        hasattr(kernels, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )
