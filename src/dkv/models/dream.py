"""Dream (arXiv 2508.15487) as published on the hub: `DreamModel`, Qwen2.5's shape, grouped keys, biases on q, k and v.

Its rows keep the habit of the autoregressive model that it was trained from: row p predicts token p + 1 (shift 1).
Switches of the config that would change the mathematics are refused by name.
"""

from __future__ import annotations

from typing import Any

import torch

from dkv.errors import CheckpointError, UnsupportedModelError
from dkv.model import ModelConfig
from dkv.models.layers import Block, Transformer, rotary_table
from dkv.models.weights import Fields, Weights

__all__ = ["ARCHITECTURES", "build", "configure"]

ARCHITECTURES = ("DreamModel",)

_REQUIRED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
}


def configure(raw: dict[str, Any]) -> ModelConfig:
    """Read a published config.json. Raises UnsupportedModelError and CheckpointError, naming the key."""
    for key, allowed in _REQUIRED.items():
        value = raw.get(key, allowed[-1])
        if not any(value is a or (a is not None and value == a and type(value) is type(a)) for a in allowed):
            raise UnsupportedModelError(f"config.json: {key}={value!r} is not supported; Dream has {allowed[0]!r}")
    fields = Fields(raw)
    width, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    kv_heads = fields.size("num_key_value_heads", heads)
    head_dim = fields.size("head_dim", max(width // heads, 1))
    if head_dim % 2 or heads % kv_heads:
        raise CheckpointError(
            f"config.json: hidden_size={width}, num_attention_heads={heads}, num_key_value_heads={kv_heads} do not "
            f"divide into even heads"
        )
    vocab = fields.size("vocab_size")
    eos_ids = fields.ids("eos_token_id", vocab)
    return ModelConfig(
        family="dream",
        layers=fields.size("num_hidden_layers"),
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_width=fields.size("intermediate_size"),
        vocab=vocab,
        context=fields.size("max_position_embeddings"),
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=_theta(raw, fields),
        mask_id=fields.ids("mask_token_id", vocab)[0],
        eos_ids=eos_ids,
        pad_id=fields.ids("pad_token_id", vocab, default=eos_ids[0])[0],
        shift=1,
        tied=bool(raw.get("tie_word_embeddings", False)),
        default_decoder="entropy",
    )


def _theta(raw: dict[str, Any], fields: Fields) -> float:
    """The base of the rotary angles: a key of its own, or in `rope_parameters` as newer programs write it. Raises
    UnsupportedModelError for any scaling of positions."""
    for key in ("rope_scaling", "rope_parameters"):
        value = raw.get(key)
        kind = value.get("rope_type", value.get("type")) if isinstance(value, dict) else value
        if kind not in (None, "default"):
            raise UnsupportedModelError(f"config.json: {key}={value!r} is not supported; Dream has no scaling")
    newer = raw.get("rope_parameters")
    if isinstance(newer, dict) and "rope_theta" in newer:
        return Fields(newer).number("rope_theta", 10000.0)
    return fields.number("rope_theta", 10000.0)


def build(config: ModelConfig, weights: Weights) -> Transformer:
    """Read the tensors under their published names. Raises CheckpointError for a missing or misshapen one."""
    c = config
    embedding = weights.take("model.embed_tokens.weight", (c.vocab, c.width))
    return Transformer(
        config=c,
        embedding=embedding,
        blocks=tuple(_block(c, weights, f"model.layers.{i}.") for i in range(c.layers)),
        final_norm=weights.take("model.norm.weight", (c.width,)),
        head_weight=embedding if c.tied else weights.take("lm_head.weight", (c.vocab, c.width)),
        rotary=rotary_table(c.head_dim, c.context + 1, c.rope_theta, torch.device(weights.device)),
    )


def _block(c: ModelConfig, weights: Weights, at: str) -> Block:
    queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
    attn, mlp = at + "self_attn.", at + "mlp."
    return Block(
        config=c,
        attn_norm=weights.take(at + "input_layernorm.weight", (c.width,)),
        mlp_norm=weights.take(at + "post_attention_layernorm.weight", (c.width,)),
        qk_weight=weights.fuse({attn + "q_proj.weight": (queries, c.width), attn + "k_proj.weight": (keys, c.width)}),
        v_weight=weights.take(attn + "v_proj.weight", (keys, c.width)),
        out_weight=weights.take(attn + "o_proj.weight", (c.width, queries)),
        gate_up_weight=weights.fuse(
            {mlp + "gate_proj.weight": (c.mlp_width, c.width), mlp + "up_proj.weight": (c.mlp_width, c.width)}
        ),
        down_weight=weights.take(mlp + "down_proj.weight", (c.width, c.mlp_width)),
        qk_bias=weights.fuse({attn + "q_proj.bias": (queries,), attn + "k_proj.bias": (keys,)}),
        v_bias=weights.take(attn + "v_proj.bias", (keys,)),
    )
