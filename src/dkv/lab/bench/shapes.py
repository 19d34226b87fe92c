"""Named shapes, and models of them with random weights: speed does not depend on what the weights say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from dkv.core.model import ModelConfig
from dkv.errors import SpecError
from dkv.layers.rotary import Rotary
from dkv.layers.transformer import Transformer, TransformerBlock
from dkv.models.weight_map import can_overflow, kept

__all__ = ["SHAPES", "named_shape", "random_model", "shape"]


def shape(width: int, layers: int, heads: int, mlp_width: int, vocab: int, context: int = 4096) -> ModelConfig:
    """A LLaDA-shaped config; the last three ids are end-of-text, padding and mask."""
    return ModelConfig(
        family="llada", layers=layers, width=width, heads=heads, kv_heads=heads, head_dim=width // heads,
        mlp_width=mlp_width, vocab=vocab, context=context, norm_eps=1e-5, rope_theta=10000.0, mask_id=vocab - 1,
        eos_ids=(vocab - 3,), pad_id=vocab - 2, shift=0, tied=False, default_decoder="confidence",
    )  # fmt: skip


_DREAM = replace(
    shape(3584, 28, 28, 18944, 152064, context=131072), family="dream", kv_heads=4, norm_eps=1e-6, rope_theta=1e6,
    shift=1, default_decoder="entropy",
)  # fmt: skip
SHAPES: dict[str, ModelConfig] = {
    "dream-7b": _DREAM,
    "llada-8b": replace(shape(4096, 32, 32, 12288, 126464), rope_theta=5e5),
    "micro": shape(64, 2, 4, 96, 128),
    "small": shape(512, 8, 8, 1376, 2048),
}
"""LLaDA-8B and Dream-7B as published (but the special ids, which are the last three here); two for a small machine."""

_SIZES = ("context", "head_dim", "heads", "kv_heads", "layers", "mlp_width", "vocab", "width")


def named_shape(spec: str) -> ModelConfig:
    """The config that a spec such as "llada-8b,layers=2" asks for: a name, then sizes to change.

    Where heads change and kv_heads or head_dim are not given, the number of queries per key and width = heads *
    head_dim are kept. Raises SpecError, naming what is known.
    """
    name, *changes = (part.strip() for part in spec.split(","))
    if name not in SHAPES:
        raise SpecError(f"shape={spec!r}: unknown name {name!r}; known: {', '.join(SHAPES)}")
    base, sizes = SHAPES[name], _sizes(spec, changes)
    heads, width = sizes.get("heads", base.heads), sizes.get("width", base.width)
    sizes.setdefault("kv_heads", max(heads * base.kv_heads // base.heads, 1))
    sizes.setdefault("head_dim", max(width // heads, 1))
    vocab = sizes.get("vocab", base.vocab)
    made = replace(base, **sizes, mask_id=vocab - 1, eos_ids=(vocab - 3,), pad_id=vocab - 2)  # type: ignore[arg-type]
    if made.head_dim % 2 or made.heads % made.kv_heads or made.vocab < 4:
        raise SpecError(
            f"shape={spec!r}: heads={made.heads}, kv_heads={made.kv_heads}, head_dim={made.head_dim}, "
            f"vocab={made.vocab} do not fit; kv_heads must divide heads, head_dim be even, vocab at least 4"
        )
    return made


def _sizes(spec: str, changes: list[str]) -> dict[str, int]:
    """The changes of a spec by name. Raises SpecError."""
    sizes: dict[str, int] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if key not in _SIZES:
            raise SpecError(f"shape={spec!r}: unknown key {key!r}; a shape takes: {', '.join(_SIZES)}")
        if not equals or key in sizes:
            raise SpecError(f"shape={spec!r}: write {key}=VALUE, once")
        if not (value.isascii() and value.isdigit() and 0 < int(value) < 1 << 31):
            raise SpecError(f"shape={spec!r}: {key}={value!r} must be a whole number of at least 1")
        sizes[key] = int(value)
    return sizes


def random_model(
    config: ModelConfig,
    dtype: torch.dtype,
    seed: int = 0,
    device: torch.device | str = "cpu",
    quantize: str | None = None,
    arrange: bool = True,
) -> Transformer:
    """Weights drawn at a scale that keeps activations of order one, and with a family's biases, of zeros; the layers'
    kept as `load` does with quantize, and where arrange is false in the usual layout."""
    draw, c = torch.Generator(device).manual_seed(seed), config

    def weight(*dims: int) -> torch.Tensor:
        return torch.empty(dims, dtype=dtype, device=device).normal_(0.0, dims[-1] ** -0.5, generator=draw)

    def held(field: str, *dims: int) -> Any:
        return kept(field, weight(*dims), quantize, arrange)

    def bias(size: int) -> torch.Tensor | None:
        return torch.zeros(size, dtype=dtype, device=device) if c.family == "dream" else None

    inner, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
    norm = torch.ones(c.width, dtype=dtype, device=device)
    blocks = tuple(
        TransformerBlock(
            config=c,
            attn_norm=norm,
            mlp_norm=norm,
            qk_weight=held("qk_weight", inner + keys, c.width),
            v_weight=held("v_weight", keys, c.width),
            out_weight=held("out_weight", c.width, inner),
            gate_up_weight=held("gate_up_weight", 2 * c.mlp_width, c.width),
            down_weight=held("down_weight", c.width, c.mlp_width),
            qk_bias=bias(inner + keys),
            v_bias=bias(keys),
            guarded=torch.device(device).type == "cpu" and can_overflow((), dtype),
        )
        for _ in range(c.layers)
    )
    embedding = weight(c.vocab, c.width)
    head = embedding if c.tied else held("head_weight", c.vocab, c.width)
    return Transformer(c, embedding, blocks, norm, head, Rotary(c, torch.device(device)), quantize=quantize)
