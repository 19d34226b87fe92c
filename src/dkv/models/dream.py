"""Dream (arXiv 2508.15487) as published on the hub: `DreamModel`, Qwen2.5's shape, grouped keys, biases on q, k and v.

Its rows keep the habit of the autoregressive model that it was trained from: row p predicts token p + 1 (shift 1).
Switches of the config that would change the mathematics are refused by name.
"""

from __future__ import annotations

from typing import Any

from dkv.checkpoints.config_fields import MOST_LAYERS, Fields
from dkv.checkpoints.config_keys import check_switches, merge_aliases, other_names, rope_theta
from dkv.core.model import ModelConfig
from dkv.errors import CheckpointError
from dkv.layers.parts import AttentionWeights, SwiGLUWeights
from dkv.models.weight_map import WeightMap

__all__ = ["ARCHITECTURES", "configure", "weight_map"]

ARCHITECTURES = ("DreamModel",)

_REQUIRED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
}

_ALIASES = other_names("rms_norm_eps", "hidden_act")
"""What other programs call the keys of this family."""


def configure(raw: dict[str, Any]) -> ModelConfig:
    """Read a published config.json. Raises UnsupportedModelError and CheckpointError, naming the key."""
    raw = merge_aliases(raw, _ALIASES)
    fields = Fields(raw)
    fields.require(_REQUIRED, "Dream")
    check_switches(raw, "Dream", _REQUIRED.keys())
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
        layers=fields.size("num_hidden_layers", most=MOST_LAYERS),
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_width=fields.size("intermediate_size"),
        vocab=vocab,
        context=fields.size("max_position_embeddings"),
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=rope_theta(raw, "Dream", 10000.0),
        mask_id=fields.ids("mask_token_id", vocab)[0],
        eos_ids=eos_ids,
        pad_id=fields.ids("pad_token_id", vocab, default=eos_ids[0])[0],
        shift=1,
        tied=fields.flag("tie_word_embeddings", False),
        default_decoder="entropy",
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
            biases=("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
        ),
        mlp_norm="post_attention_layernorm.weight",
        feed_forward=SwiGLUWeights(gate="mlp.gate_proj.weight", up="mlp.up_proj.weight", down="mlp.down_proj.weight"),
    )
