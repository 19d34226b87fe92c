"""Layers in one call each: what `layer.c` makes of the passes in C and of torch's own products and attention, which it
calls by torch's C interface.

Between two products the processor has read megabytes of weights, and finds neither Python nor torch's bindings in its
caches again: some thirty calls cost a layer of few rows as much as half of its products. The numbers are the same to
the last bit. What does not fit (packed weights, a memory of another dtype, shards) is done call by call as ever.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dkv.drift import ROUNDING
from dkv.memory import LayerMemory
from dkv.models.layers import Block, Transformer, has_tiles
from dkv.models.layout import Gates
from dkv.models.native import Native, function
from dkv.place import At
from dkv.rules import Turn

__all__ = ["Calls", "Whole", "torchs", "whole"]

_TORCHS = (
    "aoti_torch_cpu__linear_pointwise",
    "aoti_torch_cpu__linear_pointwise_binary",
    "aoti_torch_cpu__scaled_dot_product_flash_attention_for_cpu",
    "aoti_torch_create_tensor_from_blob",
    "aoti_torch_get_data_ptr",
    "aoti_torch_get_strides",
    "aoti_torch_delete_tensor_object",
)
"""Of torch's C interface, in the order of `Torch` in the source."""
_FILES = ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll")
_DTYPES = {torch.float32: 6, torch.bfloat16: 15}
"""What torch's C interface calls them."""
_POINTER, _COUNT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
_SIGNATURES = {
    "dense": (_POINTER,) * 5,
    "pick": (*(_POINTER,) * 7, _INT, ctypes.c_float, _POINTER),
    "recompute": (*(_POINTER,) * 11, _COUNT, _INT),
}
"""Each takes torch's functions, the layer, the place and rows."""
_TENSORS = ("qk", "v", "out", "gate", "up", "down", "qk_bias", "v_bias")


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in (*_TENSORS, "attn_norm", "mlp_norm")),
        *((name, _COUNT) for name in ("heads", "kv_heads", "head_dim", "width")),
        ("eps", ctypes.c_float),
        ("dtype", _INT),
        ("size", _INT),
    )


class _Place(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("phase", "starts", "counts", "mask", "k", "v")),
        *((name, _COUNT) for name in ("n", "batch", "slots", "sequence", "head")),
        ("threads", _INT),
    )


def torchs() -> ctypes.Array[Any]:
    """The addresses of the functions of torch's C interface that a layer needs. Raises OSError and AttributeError where
    this torch lacks any."""
    directory = Path(torch.__file__).parent / "lib"
    library = ctypes.CDLL(str(next((path for name in _FILES if (path := directory / name).exists()), _FILES[0])))
    return (_POINTER * len(_TORCHS))(*(ctypes.cast(library[name], _POINTER).value for name in _TORCHS))


class _Picks(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("source", "bias", "picks", "slots", "index", "slot", "flat")),
        ("n", _COUNT),
        ("rows", _COUNT),
    )


class Calls:
    """The functions of a built library, which call those of torch (`torchs`)."""

    def __init__(self, library: ctypes.CDLL, given: ctypes.Array[Any]) -> None:
        self._torchs = given
        self._release = ctypes.CFUNCTYPE(_INT, _POINTER)(given[-1])
        self.dense, self.pick, self.recompute = (self._of(library, name) for name in _SIGNATURES)

    def handle(self, x: Tensor, owner: object) -> int:
        """A tensor as torch's C interface knows it, as long as its owner lives."""
        capsule = torch._C._aoti.unsafe_alloc_void_ptr_from_tensor(x)
        made: int = _pointer_of(capsule, None)
        weakref.finalize(owner, self._release, made)
        return made

    def _of(self, library: ctypes.CDLL, name: str) -> Callable[..., bool]:
        made = function(library, name, _SIGNATURES[name], ctypes.c_bool)
        return partial(made, ctypes.addressof(self._torchs))


_pointer_of = ctypes.PYFUNCTYPE(_POINTER, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))


@dataclass(frozen=True, eq=False)
class Whole(Block):
    """A block whose verbs are one call each, and the dense layer too."""

    passes: Native = field(kw_only=True)
    calls: Calls = field(kw_only=True)
    own: _Layer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        c, dtype = self.config, self.attn_norm.dtype
        biases = (None if bias is None else self.calls.handle(bias, self) for bias in (self.qk_bias, self.v_bias))
        handles = (self.calls.handle(weight, self) for weight in _weights(self))
        norms = (self.attn_norm.data_ptr(), self.mlp_norm.data_ptr())
        sizes = (c.heads, c.kv_heads, c.head_dim, c.width, c.norm_eps, _DTYPES[dtype], dtype.itemsize)
        object.__setattr__(self, "own", _Layer(*handles, *biases, *norms, *sizes))

    def dense(self, x: Tensor, at: At, turn: Turn, memory: LayerMemory) -> Tensor:
        """The ordinary layer of x [N, C]: [N, C]."""
        out = torch.empty_like(x)
        done = self._done(self.calls.dense, x, at, turn.phase, memory, out.data_ptr())
        return out if done else super().dense(x, at, turn, memory)

    def pick(self, x: Tensor, at: At, memory: LayerMemory, similarity: str | None) -> tuple[Tensor, At]:
        """x [N, C] normed, and the rows of it to recompute: those whose values moved most by `similarity`; the values
        go into their slots unless they are frozen. None: the first rows, and no value is renewed."""
        if similarity is None:
            return super().pick(x, at, memory, similarity)
        narrow, h, moved = at.picking, torch.empty_like(x), torch.empty(len(x))
        index, slot, flat = torch.empty(3, len(narrow.base), dtype=torch.int64).unbind()
        each = (narrow.source, narrow.bias, narrow.picks, at.slot, index, slot, flat)
        picks = _Picks(*map(_address, each), len(index), narrow.source.shape[1])
        given = _address(narrow.frozen), similarity == "cosine", ROUNDING, ctypes.byref(picks)
        if not self._done(self.calls.pick, x, at, None, memory, h.data_ptr(), moved.data_ptr(), *given):
            return super().pick(x, at, memory, similarity)
        return h, narrow.picked(at, index, slot, flat)

    def recompute(
        self,
        x: Tensor,
        h: Tensor,
        at: At,
        picked: At,
        turn: Turn,
        memory: LayerMemory,
        names: Sequence[str],
        values: bool = True,
    ) -> Tensor:
        """Put what attention and the feed-forward add to the picked ones of x [N, C], h [N, C] once normed, into the
        feature buffers `names`; then x plus what these hold, [N, C]."""
        if not len(picked.slot):
            return memory.onto(names, at, x)
        (attn, apart), (mlp, _) = (memory.cells(name) for name in names)
        out = torch.empty_like(x)
        rows = (h, picked.index, attn, mlp, picked.starts(apart), at.starts(apart), out)
        given = (*map(_address, rows), len(x), values)
        done = self._fits(h, attn, mlp) and self._done(self.calls.recompute, x, picked, turn.phase, memory, *given)
        return out if done else super().recompute(x, h, at, picked, turn, memory, names, values)

    def _done(
        self, call: Callable[..., bool], x: Tensor, at: At, phase: Tensor | None, memory: LayerMemory, *more: Any
    ) -> bool:
        """Whether a call was made, of rows x [N, C] and those that sit `at`, and went well: else torch does the same
        and can say why."""
        (k, apart), (v, _) = memory.cells("k"), memory.cells("v")
        mask, grouping = at.mask, at.grouping
        regular = grouping.group is None or bool(grouping.counts)
        if not (self._fits(x, k, v) and regular and all(y is None or y.is_contiguous() for y in (mask, phase))):
            return False
        starts, told = at.starts(apart), (_COUNT * len(grouping.counts))(*grouping.counts)
        place = _Place(
            _address(phase), starts.data_ptr(), ctypes.addressof(told) if grouping.counts else None, _address(mask),
            k.data_ptr(), v.data_ptr(), len(starts), grouping.shape[0], at.width, apart.sequence, apart.head,
            self.passes.threads,
        )  # fmt: skip
        return call(ctypes.byref(self.own), ctypes.byref(place), x.data_ptr(), *more)

    def _fits(self, *given: Tensor) -> bool:
        """Whether these can be read as numbers of the weights' dtype, one after the other."""
        return all(x.dtype == self.attn_norm.dtype and x.is_contiguous() for x in given)


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _weights(block: Block) -> Sequence[Tensor]:
    """Those that are multiplied by, as `_TENSORS` has them; none where gate and up are not apart."""
    gates = block.gate_up_weight
    if not isinstance(gates, Gates):
        return ()
    return block.qk_weight, block.v_weight, block.out_weight, gates.gate, gates.up, block.down_weight


def whole(network: Transformer, passes: Native) -> Transformer:
    """The network with these passes, and with layers in one call where torch has what that takes."""
    network = network.passing(passes)
    if passes.library is None:
        return network
    try:
        calls = Calls(passes.library, torchs())
    except (OSError, AttributeError):  # another torch, whose C interface lacks something
        return network
    passes.warmth.note = f"layers were built in {passes.warmth.seconds:.1f} s"
    return replace(network, blocks=tuple(_whole(block, calls) for block in network.blocks))


def _whole(block: Block, calls: Calls) -> Block:
    weights, dtype = _weights(block), block.attn_norm.dtype
    fused = dtype == torch.float32 or (dtype == torch.bfloat16 and has_tiles())  # else `attention` takes two products
    if type(block) is not Block or not fused or not weights or not all(weight.is_mkldnn for weight in weights):
        return block
    return Whole(**{one.name: getattr(block, one.name) for one in fields(block)}, calls=calls)
