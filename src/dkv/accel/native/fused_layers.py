"""Layers in one call: what `fused_layers.c` makes of the passes in C and of torch's own products and attention, which
it calls by torch's C interface.

Between two products the processor has read megabytes of weights, and finds neither Python nor torch's bindings in its
caches again: some thirty calls cost a layer of few rows as much as half of its products. The numbers are the same but
for rounding: sequences attend one by one and unpadded, and torch's attention sums in another order for another number
of rows. What does not fit (packed weights, a memory of another dtype, shards, other rules) is done call by call.
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

from dkv.accel.native.rowwise_ops import Native, function
from dkv.core.drift import ROUNDING
from dkv.core.kv_cache import LayerCache
from dkv.core.layer_rules import RotaryPhase
from dkv.core.packing import CellStrides, Grouping, PackedRows, RowSelection
from dkv.layers.cpu_linear import Gates
from dkv.layers.parts import SelfAttention, SwiGLU, has_tiles
from dkv.layers.transformer import Rule, Transformer, TransformerBlock, dense, eager
from dkv.layers.v_verify import Verify

__all__ = ["Known", "NativeCalls", "Whole", "torchs", "whole"]

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
    "dense": (*(_POINTER,) * 3, _COUNT, *(_POINTER,) * 3),
    "verify": (*(_POINTER,) * 3, _COUNT, *(_POINTER,) * 5),
}
"""Each takes torch's functions, layers and their memories, how many, places and rows."""
_TENSORS = ("qk", "v", "out", "gate", "up", "down", "qk_bias", "v_bias")
_BY = {None: 0, "cosine": 1, "l2": 2}


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
        ("counts", ctypes.POINTER(_COUNT)),
        *((name, _POINTER) for name in ("phase", "starts", "mask")),
        *((name, _COUNT) for name in ("n", "batch", "slots", "sequence", "head")),
        ("threads", _INT),
    )


class _Picking(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("source", "picks", "sequence", "slots", "numbers", "bias", "frozen")),
        ("rows", _COUNT),
        ("least", ctypes.c_float),
        ("by", _INT),
    )


def torchs() -> ctypes.Array[Any]:
    """The addresses of the functions of torch's C interface that a layer needs. Raises OSError and AttributeError where
    this torch lacks any."""
    directory = Path(torch.__file__).parent / "lib"
    library = ctypes.CDLL(str(next((path for name in _FILES if (path := directory / name).exists()), _FILES[0])))
    return (_POINTER * len(_TORCHS))(*(ctypes.cast(library[name], _POINTER).value for name in _TORCHS))


class NativeCalls:
    """The functions of a built library, which call those of torch (`torchs`)."""

    def __init__(self, library: ctypes.CDLL, given: ctypes.Array[Any]) -> None:
        self._torchs = given
        self._release = ctypes.CFUNCTYPE(_INT, _POINTER)(given[-1])
        self.dense, self.verify = (self._of(library, name) for name in _SIGNATURES)

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
class Known(TransformerBlock):
    """A block that C knows too: own, at an address."""

    calls: NativeCalls = field(kw_only=True)
    own: _Layer = field(init=False, repr=False)
    address: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        c, dtype = self.config, self.attn_norm.dtype
        biases = (
            None if bias is None else self.calls.handle(bias, self)
            for bias in (self.attention.qk_bias, self.attention.v_bias)
        )
        handles = (self.calls.handle(weight, self) for weight in _weights(self))
        norms = (self.attn_norm.data_ptr(), self.mlp_norm.data_ptr())
        sizes = (c.heads, c.kv_heads, c.head_dim, c.width, c.norm_eps, _DTYPES[dtype], dtype.itemsize)
        object.__setattr__(self, "own", _Layer(*handles, *biases, *norms, *sizes))
        object.__setattr__(self, "address", ctypes.addressof(self.own))


class Whole:
    """Runs layers in one call, for `Transformer.run`: ordinary ones and those under V-verify.

    Other rules, and what does not fit, go operation by operation. So does a call that fails, so that torch does the
    same again and can say why.
    """

    def __init__(self, calls: NativeCalls, passes: Native) -> None:
        self._calls, self._passes = calls, passes

    def __call__(
        self,
        rule: Rule,
        blocks: Sequence[TransformerBlock],
        x: Tensor,
        at: PackedRows,
        turn: RotaryPhase,
        memories: Sequence[LayerCache],
    ) -> Tensor:
        """Layers under one rule: x [N, C] of the carried rows to x [N, C]."""
        known, features = [block for block in blocks if isinstance(block, Known)], _features(rule, at)
        if features is None or len(known) < len(blocks) or not _fit(known[0], x, at, turn, memories[0], features):
            return eager(rule, blocks, x, at, turn, memories)
        out, names = torch.empty_like(x), ("k", "v", *(features or (None,)))
        cells = [name and memory.cells(name)[0].data_ptr() for memory in memories for name in names]
        apart, count = memories[0].cells("k")[1], len(known)
        layers, held = (_POINTER * count)(*(block.address for block in known)), (_POINTER * len(cells))(*cells)
        places = [self._place(at.grouping, len(x), at, apart, turn.phase, at.starts(apart))]
        rows = x.data_ptr(), out.data_ptr()
        if isinstance(rule, Verify):
            narrow = at.required_selection
            places.append(self._place(narrow.grouping, len(narrow.base), at, apart))
            picking = _picking(rule, narrow, at, memories[0].cells(features[0])[1])
            done = self._calls.verify(layers, held, count, *map(ctypes.byref, (*places, picking)), *rows)
        else:
            done = self._calls.dense(layers, held, count, ctypes.byref(places[0]), *rows)
        return out if done else eager(rule, blocks, x, at, turn, memories)

    def _place(
        self,
        grouping: Grouping,
        rows: int,
        at: PackedRows,
        apart: CellStrides,
        phase: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> _Place:
        """Of so many rows of a grouping; without the rest, which is found in C, where those sit that a layer picks."""
        told = (_COUNT * len(grouping.counts))(*grouping.counts) if grouping.counts else None
        sizes = rows, grouping.shape[0], at.width, apart.sequence, apart.head, self._passes.threads
        return _Place(told, *map(_address, (phase, starts, at.mask)), *sizes)


def _features(rule: Rule, at: PackedRows) -> tuple[str, ...] | None:
    """The feature buffers of a rule that is known here; None for another one. (A class of one's own that extends
    V-verify is another one.)"""
    if rule is dense:
        return ()
    return rule.buffers if type(rule) is Verify and at.selection is not None else None


def _fit(
    block: TransformerBlock, x: Tensor, at: PackedRows, turn: RotaryPhase, memory: LayerCache, features: tuple[str, ...]
) -> bool:
    """Whether C can read rows x [N, C], where they sit and a memory: numbers of the weights' dtype, one after the
    other, and sequences whose rows are counted."""
    numbers = (x, *(memory.cells(name)[0] for name in ("k", "v", *features)))
    plain = all(one.dtype == block.attn_norm.dtype and one.is_contiguous() for one in numbers)
    groupings = (at.grouping, at.grouping if at.selection is None else at.selection.grouping)
    counted = all(one.group is None or one.counts for one in groupings)
    laid = turn.phase.is_contiguous() and (at.mask is None or at.mask.is_contiguous())
    return plain and counted and laid and at.visible is None


def _picking(rule: Verify, narrow: RowSelection, at: PackedRows, apart: CellStrides) -> _Picking:
    """What V-verify picks by; cells of features lie `apart`."""
    given = narrow.source, narrow.picks, narrow.sequence, at.slot, at.starts(apart), narrow.bias, narrow.frozen
    by = _BY[rule.similarity] if rule.adaptive else _BY[None]
    return _Picking(*map(_address, given), narrow.source.shape[1], ROUNDING, by)


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _weights(block: TransformerBlock) -> Sequence[Tensor]:
    """Those that are multiplied by, as `_TENSORS` has them; none where gate and up are not apart."""
    part, mlp = block.attention, block.feed_forward
    if not isinstance(mlp, SwiGLU) or not isinstance(gates := mlp.gate_up_weight, Gates):
        return ()
    return part.qk_weight, part.v_weight, part.out_weight, gates.gate, gates.up, mlp.down_weight


def whole(network: Transformer, passes: Native) -> Transformer:
    """The network with these passes, and with layers in one call where torch has what that takes."""
    network = network.passing(passes)
    if passes.library is None or not all(map(_suits, network.blocks)):
        return network
    try:
        calls = NativeCalls(passes.library, torchs())
    except (OSError, AttributeError):  # another torch, whose C interface lacks something
        return network
    passes.warmth.note = f"layers were built in {passes.warmth.seconds:.1f} s"
    return replace(network, blocks=tuple(_known(block, calls) for block in network.blocks), run=Whole(calls, passes))


def _suits(block: TransformerBlock) -> bool:
    """Whether C has the parts of a block, all that they have of what is optional, and the layout of their weights."""
    parts = block, block.attention, block.feed_forward
    if tuple(map(type, parts)) != (TransformerBlock, SelfAttention, SwiGLU):
        return False
    optional = ((part, one.name) for part in parts for one in fields(part) if one.default is None)  # type: ignore[arg-type]
    if any(getattr(part, name) is not None for part, name in optional if name not in _TENSORS):
        return False
    weights, dtype = _weights(block), block.attn_norm.dtype
    fused = dtype == torch.float32 or (dtype == torch.bfloat16 and has_tiles())  # else `attention` takes two products
    return fused and bool(weights) and all(weight.is_mkldnn for weight in weights)


def _known(block: TransformerBlock, calls: NativeCalls) -> Known:
    return Known(**{one.name: getattr(block, one.name) for one in fields(block)}, calls=calls)
