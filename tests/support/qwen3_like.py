"""An architecture that is not in the package, in one file: Qwen3's shape, denoising masked positions.

Norms of queries and keys, grouped keys, a head size of its own, a tied head, no biases; row p predicts position p.
"""

from __future__ import annotations

from typing import Any

from dkv.checkpoints.config_fields import MOST_LAYERS, Fields
from dkv.checkpoints.config_keys import check_switches, merge_aliases, other_names, rope_theta
from dkv.core.model import ModelConfig
from dkv.layers.parts import AttentionWeights, SwiGLUWeights
from dkv.models.weight_map import WeightMap

__all__ = ["ARCHITECTURES", "configure", "weight_map"]

ARCHITECTURES = ("Qwen3LikeForMaskedDiffusion",)

_REQUIRED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "hidden_act": ("silu", "swish"),
    "use_sliding_window": (False, None),
}

_ALIASES = other_names("rms_norm_eps", "hidden_act")


def configure(raw: dict[str, Any]) -> ModelConfig:
    """Read a config.json. Raises UnsupportedModelError and CheckpointError, naming the key."""
    raw = merge_aliases(raw, _ALIASES)
    fields = Fields(raw)
    fields.require(_REQUIRED, "Qwen3-like")
    check_switches(raw, "Qwen3-like", _REQUIRED.keys())
    vocab = fields.size("vocab_size")
    eos_ids = fields.ids("eos_token_id", vocab)
    return ModelConfig(
        family="qwen3-like",
        layers=fields.size("num_hidden_layers", most=MOST_LAYERS),
        width=fields.size("hidden_size"),
        heads=fields.size("num_attention_heads"),
        kv_heads=fields.size("num_key_value_heads"),
        head_dim=fields.size("head_dim", 128),
        mlp_width=fields.size("intermediate_size"),
        vocab=vocab,
        context=fields.size("max_position_embeddings"),
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=rope_theta(raw, "Qwen3-like", 1000000.0),
        mask_id=fields.ids("mask_token_id", vocab)[0],
        eos_ids=eos_ids,
        pad_id=fields.ids("pad_token_id", vocab, default=eos_ids[0])[0],
        shift=0,
        tied=fields.flag("tie_word_embeddings", True),
        default_decoder="confidence",
    )


def weight_map(config: ModelConfig) -> WeightMap:
    """Its parts, and the names of their weights."""
    return WeightMap(
        config,
        embedding="model.embed_tokens.weight",
        final_norm="model.norm.weight",
        head="lm_head.weight",
        block="model.layers.{}.",
        attn_norm="input_layernorm.weight",
        attention=AttentionWeights(
            q="self_attn.q_proj.weight",
            k="self_attn.k_proj.weight",
            v="self_attn.v_proj.weight",
            out="self_attn.o_proj.weight",
            norms=("self_attn.q_norm.weight", "self_attn.k_norm.weight"),
        ),
        mlp_norm="post_attention_layernorm.weight",
        feed_forward=SwiGLUWeights(gate="mlp.gate_proj.weight", up="mlp.up_proj.weight", down="mlp.down_proj.weight"),
    )
