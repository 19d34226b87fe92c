"""LLaDA (arXiv 2502.09992) as published on the hub: `LLaDAModelLM`, OLMo's names, full attention, no biases, no shift.

Its config carries many switches of the code that it grew from. Those that change the mathematics are refused by name
unless they have the value that every published LLaDA has.
"""

from __future__ import annotations

from typing import Any

import torch

from dkv.errors import CheckpointError, UnsupportedModelError
from dkv.model import ModelConfig
from dkv.models.layers import Block, Transformer, rotary_table
from dkv.models.weights import Fields, Weights

__all__ = ["ARCHITECTURES", "build", "configure"]

ARCHITECTURES = ("LLaDAModelLM",)

_REQUIRED: dict[str, tuple[Any, ...]] = {
    "alibi": (False, None),
    "activation_type": ("silu",),
    "attention_layer_norm": (False, None),
    "bias_for_layer_norm": (False, None),
    "block_group_size": (1, None),
    "block_type": ("llama",),
    "clip_qkv": (None,),
    "include_bias": (False, None),
    "include_qkv_bias": (False, None),
    "input_emb_norm": (False, None),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True, None),
    "multi_query_attention": (False, None),
    "rope": (True,),
    "rope_full_precision": (True, None),
    "rope_scaling": (None,),
    "scale_logits": (False, None),
}


def configure(raw: dict[str, Any]) -> ModelConfig:
    """Read a published config.json. Raises UnsupportedModelError and CheckpointError, naming the key."""
    for key, allowed in _REQUIRED.items():
        value = raw.get(key, allowed[-1])
        if not any(value is a or (a is not None and value == a and type(value) is type(a)) for a in allowed):
            raise UnsupportedModelError(f"config.json: {key}={value!r} is not supported; LLaDA has {allowed[0]!r}")
    fields = Fields(raw)
    width, heads = fields.size("d_model"), fields.size("n_heads")
    kv_heads = fields.size("n_kv_heads", heads)
    if width % (2 * heads) or heads % kv_heads:
        raise CheckpointError(
            f"config.json: d_model={width}, n_heads={heads}, n_kv_heads={kv_heads} do not divide into even heads"
        )
    vocab = fields.size("embedding_size", fields.size("vocab_size"))
    eos_ids = fields.ids("eos_token_id", vocab)
    return ModelConfig(
        family="llada",
        layers=fields.size("n_layers"),
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width // heads,
        mlp_width=fields.size("mlp_hidden_size", fields.size("mlp_ratio", 4) * width),
        vocab=vocab,
        context=fields.size("max_sequence_length"),
        norm_eps=fields.number("rms_norm_eps", 1e-5),
        rope_theta=fields.number("rope_theta", 10000.0),
        mask_id=fields.ids("mask_token_id", vocab)[0],
        eos_ids=eos_ids,
        pad_id=fields.ids("pad_token_id", vocab, default=eos_ids[0])[0],
        shift=0,
        tied=bool(raw.get("weight_tying", False)),
        default_decoder="confidence",
    )


def build(config: ModelConfig, weights: Weights) -> Transformer:
    """Read the tensors under their published names. Raises CheckpointError for a missing or misshapen one."""
    c, root = config, "model.transformer."
    embedding = weights.take(root + "wte.weight", (c.vocab, c.width))
    return Transformer(
        config=c,
        embedding=embedding,
        blocks=tuple(_block(c, weights, f"{root}blocks.{i}.") for i in range(c.layers)),
        final_norm=weights.take(root + "ln_f.weight", (c.width,)),
        head_weight=embedding if c.tied else weights.take(root + "ff_out.weight", (c.vocab, c.width)),
        rotary=rotary_table(c.head_dim, c.context + 1, c.rope_theta, torch.device(weights.device)),
    )


def _block(c: ModelConfig, weights: Weights, at: str) -> Block:
    queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
    return Block(
        config=c,
        attn_norm=weights.take(at + "attn_norm.weight", (c.width,)),
        mlp_norm=weights.take(at + "ff_norm.weight", (c.width,)),
        qk_weight=weights.fuse({at + "q_proj.weight": (queries, c.width), at + "k_proj.weight": (keys, c.width)}),
        v_weight=weights.take(at + "v_proj.weight", (keys, c.width)),
        out_weight=weights.take(at + "attn_out.weight", (c.width, queries)),
        gate_up_weight=weights.fuse(
            {at + "ff_proj.weight": (c.mlp_width, c.width), at + "up_proj.weight": (c.mlp_width, c.width)}
        ),
        down_weight=weights.take(at + "ff_out.weight", (c.width, c.mlp_width)),
    )
