"""Weights of 8 or 4 bits in place of plain ones: made while a checkpoint is read, and taken by `F.linear` as they are.

What is packed are the weights that rows of a block are multiplied by. Norms and biases are small, an embedding is
looked up and never multiplied, and the head's logits are what confidences and the order of decoding are read from.
Activations, keys and values keep their dtype. A product makes a slab of the weight plain, multiplies by it, and takes
the next: it costs more than a plain product by about the same amount however many rows are carried. The fused kernels
for CPUs unpack anew for every few rows, and a step carries tens or hundreds (docs/quantize.md has the figures). The
exception is 4 bits on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.errors import SettingError
from dkv.storage.extras import module_of

__all__ = ["GROUP", "KINDS", "Int4Weight", "Int8Weight", "check_extra", "check_kind", "pack", "packed_bytes"]

KINDS = ("int8", "int4")
"""What the argument `quantize` can name."""

GROUP = 32
"""Inputs that share a scale and a zero point in 4 bits."""

_SLAB, _SLAB_ELSEWHERE = 1 << 20, 1 << 26
"""Numbers of a weight that are plain at a time: on a CPU they should stay in its second-level cache."""


def check_kind(kind: str | None, ranks: int = 1) -> None:
    """Raise SettingError for an unknown kind, or any over several ranks: each would take the scales of its own share,
    and what is generated would depend on how many there are."""
    if kind is not None and kind not in KINDS:
        raise SettingError(f"quantize={kind!r} is unknown; known: {', '.join(KINDS)}")
    if kind is not None and ranks > 1:
        raise SettingError(f"quantize={kind!r} does not go with tensor_parallel={ranks}; use one of them")


def check_extra(kind: str | None, device: torch.device, dtype: torch.dtype) -> None:
    """Raise SettingError where a kind needs the extra `quant`, which is not installed."""
    if kind == "int4" and _has_tinygemm(device, dtype):
        module_of("quant", "torchao.quantization")


def pack(kind: str, weight: Tensor) -> Tensor:
    """A weight [O, C] in 8 or 4 bits, for `F.linear` and nothing else. Raises SettingError for an unknown kind, for
    what `check_extra` does, and where C is no multiple of GROUP for 4 bits."""
    check_kind(kind)
    if kind == "int8":
        return Int8Weight.of(weight)
    if weight.shape[1] % GROUP:
        raise SettingError(f"quantize='int4' needs sizes that are multiples of {GROUP}, and one is {weight.shape[1]}; "
                           f"use int8")  # fmt: skip
    if _has_tinygemm(weight.device, weight.dtype):
        tensor: Tensor = module_of("quant", "torchao.quantization").Int4TilePackedTo4dTensor.from_hp(weight, [1, GROUP])
        return tensor
    return Int4Weight.of(weight)


def packed_bytes(kind: str | None, shape: Sequence[int], itemsize: int) -> int:
    """Bytes of a weight [O, C] once packed, scales and zero points of `itemsize` bytes; None = plain."""
    numbers = prod(shape)
    if kind is None:
        return numbers * itemsize
    return numbers + shape[0] * itemsize if kind == "int8" else numbers // 2 + 2 * numbers // GROUP * itemsize


def _has_tinygemm(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's fused 4-bit kernel, for which torchao packs, runs there: in bfloat16 on NVIDIA's since Ampere."""
    if device.type != "cuda" or dtype != torch.bfloat16 or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


class _Weight(Tensor):
    """A weight [O, C] that looks like a tensor of its plain shape and dtype, holds none of it, and knows one operation.

    parts: what it holds, with O first; slabs: the rows that are plain at a time, none of them longer than the first.
    """

    parts: tuple[Tensor, ...]
    slabs: list[slice]

    @staticmethod
    def __new__(cls, shape: Sequence[int], *parts: Tensor) -> Self:
        """parts: codes, then what is in the dtype of the weight."""
        made: Self = Tensor._make_wrapper_subclass(cls, shape, dtype=parts[-1].dtype, device=parts[-1].device)
        made.parts, made.slabs = parts, _slabs(shape, made.device)
        return made

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """Pack a plain weight, a slab at a time, into room that is taken first: pieces that stay between others that go
        would leave holes in memory."""
        made = cls(weight.shape, *(part.new_empty((len(weight), *part.shape[1:])) for part in cls._packed(weight[:1])))
        for at in made.slabs:
            for place, part in zip(made.parts, cls._packed(weight[at]), strict=True):
                place[at] = part
        return made

    @staticmethod
    def _packed(weight: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def linear(self, x: Tensor) -> Tensor:
        """x [N, C] times the weight: [N, O]."""
        raise NotImplementedError

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{type(self).__name__}({list(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """`F.linear`, and what is asked of any tensor: its shape, dtype, device."""
        if function is F.linear:
            x, weight, *bias = args
            made = weight.linear(x)
            return made if not bias or bias[0] is None else made.add_(bias[0])
        return super().__torch_function__(function, types, args, kwargs or {})  # type: ignore[no-untyped-call]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any, kwargs: Any) -> Any:  # type: ignore[override]
        """Nothing else is defined."""
        raise NotImplementedError(f"{func} of a packed weight")


class Int8Weight(_Weight):
    """codes [O, C] int8, scale [O]: each row's largest magnitude is 127."""

    @staticmethod
    def _packed(weight: Tensor) -> tuple[Tensor, ...]:
        wide = weight.float()
        # Divide by the scale as it will be kept: its own rounding then costs nothing.
        scale = (wide.abs().amax(1) / 127).clamp(min=_least(weight.dtype)).to(weight.dtype)
        return (wide / scale[:, None].float()).round().clamp(-127, 127).to(torch.int8), scale

    def linear(self, x: Tensor) -> Tensor:
        """As above; the scales are applied to what comes out."""
        codes, scale = self.parts
        slabs = self.slabs
        made, plain = x.new_empty(len(x), len(codes)), x.new_empty(slabs[0].stop, codes.shape[1])
        for at in slabs:
            torch.mm(x, plain[: at.stop - at.start].copy_(codes[at]).t(), out=made[:, at])
        return made.mul_(scale)


class Int4Weight(_Weight):
    """codes [O, C / 2] int8, two in a byte; scale, zero [O, C / GROUP]. A number is code * scale + zero with
    -8 <= code < 8; a group's least and greatest are kept, as torch's fused kernel for GPUs has it.

    Inputs are kept in another order, the first of every group before the second of any, so that a row of scales lies
    beside a row of codes: with the scales of one group in a run, the multiplication takes several times as long. The
    first half of them is in the lower bits.
    """

    @staticmethod
    def _packed(weight: Tensor) -> tuple[Tensor, ...]:
        groups = _grouped(weight.float())
        low, high = groups.aminmax(dim=2)
        scale = ((high - low) / 15).clamp(min=_least(weight.dtype)).to(weight.dtype)
        zero = (low + 8 * scale.float()).to(weight.dtype)
        codes = ((groups - zero.float()[..., None]) / scale.float()[..., None]).round().clamp(-8, 7).to(torch.int8)
        first, second = codes.transpose(1, 2).flatten(1).chunk(2, dim=1)
        return (first & 15) | (second << 4), scale, zero

    def linear(self, x: Tensor) -> Tensor:
        """As above; the zero points are multiplied by the sums of the groups of x."""
        codes, scale, zero = self.parts
        groups = _grouped(x)
        ordered, half = groups.transpose(1, 2).flatten(1), codes.shape[1]
        slabs = self.slabs
        made, plain = F.linear(groups.sum(2), zero), x.new_empty(slabs[0].stop, 2 * half)
        signed = torch.empty(plain.shape, dtype=torch.int8, device=x.device)
        for at in slabs:
            slab, both, own = codes[at], signed[: at.stop - at.start], plain[: at.stop - at.start]
            torch.bitwise_left_shift(slab, 4, out=both[:, :half])
            both[:, :half].bitwise_right_shift_(4)  # brings the sign along
            torch.bitwise_right_shift(slab, 4, out=both[:, half:])
            own.copy_(both).view(len(slab), GROUP, -1).mul_(scale[at, None])
            made[:, at].addmm_(ordered, own.t())
        return made


def _grouped(x: Tensor) -> Tensor:
    """x [N, C] as [N, C / GROUP, GROUP]."""
    return x.reshape(len(x), x.shape[1] // GROUP, GROUP)


def _least(dtype: torch.dtype) -> float:
    """Of scales: a row of zeros is not to be divided by zero."""
    return max(torch.finfo(dtype).tiny, torch.finfo(torch.float32).tiny)


def _slabs(shape: Sequence[int], device: torch.device) -> list[slice]:
    rows, columns = shape
    size = min(max(1, (_SLAB if device.type == "cpu" else _SLAB_ELSEWHERE) // columns), rows)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
