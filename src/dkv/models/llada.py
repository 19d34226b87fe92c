"""LLaDA (arXiv 2502.09992) as published on the hub: `LLaDAModelLM`, OLMo's names, full attention, no biases, no shift.

Its config carries many switches of the code that it grew from. Those that change the mathematics are refused by name
unless they have the value that every published LLaDA has.
"""

from __future__ import annotations

from typing import Any

from dkv.checkpoints.config_fields import MOST_LAYERS, Fields
from dkv.checkpoints.config_keys import check_switches, merge_aliases, other_names, rope_theta
from dkv.core.model import ModelConfig
from dkv.errors import CheckpointError, UnsupportedModelError
from dkv.layers.parts import AttentionWeights, SwiGLUWeights
from dkv.models.weight_map import WeightMap

__all__ = ["ARCHITECTURES", "configure", "weight_map"]

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
    "scale_logits": (False, None),
}

_ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "num_hidden_layers": "n_layers",
    "intermediate_size": "mlp_hidden_size",
    "max_position_embeddings": "max_sequence_length",
    "hidden_act": "activation_type",
    "attention_bias": "include_qkv_bias",
    "mlp_bias": "include_bias",
    **other_names("rms_norm_eps", "activation_type"),
}
"""What other programs call the keys of this family."""


def configure(raw: dict[str, Any]) -> ModelConfig:
    """Read a published config.json. Raises UnsupportedModelError and CheckpointError, naming the key."""
    raw = merge_aliases(raw, _ALIASES)
    fields = Fields(raw)
    fields.require(_REQUIRED, "LLaDA")
    check_switches(raw, "LLaDA", _REQUIRED.keys())
    width, heads = fields.size("d_model"), fields.size("n_heads")
    kv_heads = fields.size("n_kv_heads", heads)
    if width % (2 * heads) or heads % kv_heads:
        raise CheckpointError(
            f"config.json: d_model={width}, n_heads={heads}, n_kv_heads={kv_heads} do not divide into even heads"
        )
    if fields.size("head_dim", width // heads) != width // heads:
        raise UnsupportedModelError(
            f"config.json: head_dim={raw['head_dim']} is not supported; LLaDA has d_model / n_heads = {width // heads}"
        )
    vocab = fields.size("embedding_size", fields.size("vocab_size"))
    eos_ids = fields.ids("eos_token_id", vocab)
    return ModelConfig(
        family="llada",
        layers=fields.size("n_layers", most=MOST_LAYERS),
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width // heads,
        mlp_width=fields.size("mlp_hidden_size", fields.size("mlp_ratio", 4) * width),
        vocab=vocab,
        context=fields.size("max_sequence_length"),
        norm_eps=fields.number("rms_norm_eps", 1e-5),
        rope_theta=rope_theta(raw, "LLaDA", 10000.0),
        mask_id=fields.ids("mask_token_id", vocab)[0],
        eos_ids=eos_ids,
        pad_id=fields.ids("pad_token_id", vocab, default=eos_ids[0])[0],
        shift=0,
        tied=fields.flag("weight_tying", fields.flag("tie_word_embeddings", False)),
        default_decoder="confidence",
    )


def weight_map(config: ModelConfig) -> WeightMap:
    """Its parts, and the names of their weights."""
    return WeightMap(
        config,
        embedding="model.transformer.wte.weight",
        final_norm="model.transformer.ln_f.weight",
        head="model.transformer.ff_out.weight",
        block="model.transformer.blocks.{}.",
        attn_norm="attn_norm.weight",
        attention=AttentionWeights(q="q_proj.weight", k="k_proj.weight", v="v_proj.weight", out="attn_out.weight"),
        mlp_norm="ff_norm.weight",
        feed_forward=SwiGLUWeights(gate="ff_proj.weight", up="up_proj.weight", down="ff_out.weight"),
    )
