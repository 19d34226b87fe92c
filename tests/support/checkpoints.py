"""Tiny random LLaDA and Dream checkpoints in the published format, and byte-level tokenizers to go with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

__all__ = [
    "BASE_SPECIAL",
    "CHAT",
    "CONFIG",
    "DREAM_CONFIG",
    "EOS",
    "EOT",
    "MASK",
    "SPECIAL",
    "TRIMMING_CHAT",
    "VOCAB",
    "config_of",
    "dream_config_of",
    "dream_tensors_of",
    "tensors_of",
    "write_checkpoint",
    "write_tokenizer",
]

SPECIAL = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|mdm_mask|>",
)
BASE_SPECIAL = (*SPECIAL[:2], "<|spare_0|>", "<|spare_1|>", "<|spare_2|>", SPECIAL[5])
"""As a Base model's: the same ids, without the tokens of a chat format."""

EOS, EOT, MASK, VOCAB = 257, 260, 261, 272
"""The first 256 ids are bytes, then SPECIAL; a few embedding rows more, as published checkpoints have."""

CHAT = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TRIMMING_CHAT = CHAT.replace("message['content']", "message['content'] | trim")

CONFIG: dict[str, Any] = {
    "activation_type": "silu",
    "alibi": False,
    "architectures": ["LLaDAModelLM"],
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 32,
    "embedding_size": VOCAB,
    "eos_token_id": EOS,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": MASK,
    "max_sequence_length": 96,
    "mlp_hidden_size": 48,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": 4,
    "n_kv_heads": 4,
    "n_layers": 2,
    "pad_token_id": EOS,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 10000.0,
    "scale_logits": False,
    "vocab_size": VOCAB,
    "weight_tying": False,
}

DREAM_CONFIG: dict[str, Any] = {
    "architectures": ["DreamModel"],
    "attention_dropout": 0.0,
    "bos_token_id": EOS,
    "eos_token_id": EOS,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "mask_token_id": MASK,
    "max_position_embeddings": 96,
    "max_window_layers": 2,
    "model_type": "Dream",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": EOS,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "use_cache": False,
    "use_sliding_window": False,
    "vocab_size": VOCAB,
}


def config_of(**changes: Any) -> dict[str, Any]:
    """CONFIG with changes."""
    return {**CONFIG, **changes}


def dream_config_of(**changes: Any) -> dict[str, Any]:
    """DREAM_CONFIG with changes."""
    return {**DREAM_CONFIG, **changes}


def tensors_of(config: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random weights under their published names: large enough that tokens depend on each other, float32."""
    source = torch.Generator().manual_seed(seed)
    width, vocab, mlp = config["d_model"], config["embedding_size"], config["mlp_hidden_size"]
    keys = width // config["n_heads"] * config["n_kv_heads"]

    def matrix(rows: int, columns: int, gain: float = 1.5) -> Tensor:
        return torch.randn(rows, columns, generator=source).mul(gain / columns**0.5)

    def norm() -> Tensor:
        return 1 + 0.2 * torch.randn(width, generator=source)

    tensors = {"wte.weight": torch.randn(vocab, width, generator=source), "ln_f.weight": norm()}
    if not config["weight_tying"]:
        tensors["ff_out.weight"] = matrix(vocab, width, 2.5)
    for layer in range(config["n_layers"]):
        at = f"blocks.{layer}."
        tensors |= {
            at + "attn_norm.weight": norm(),
            at + "ff_norm.weight": norm(),
            at + "q_proj.weight": matrix(width, width),
            at + "k_proj.weight": matrix(keys, width),
            at + "v_proj.weight": matrix(keys, width),
            at + "attn_out.weight": matrix(width, width),
            at + "ff_proj.weight": matrix(mlp, width),
            at + "up_proj.weight": matrix(mlp, width),
            at + "ff_out.weight": matrix(width, mlp),
        }
    return {f"model.transformer.{name}": tensor for name, tensor in tensors.items()}


def dream_tensors_of(config: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """The same for Dream, its queries, keys and values with biases."""
    source = torch.Generator().manual_seed(seed)
    width, vocab, mlp = config["hidden_size"], config["vocab_size"], config["intermediate_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]

    def matrix(rows: int, columns: int, gain: float = 1.5) -> Tensor:
        return torch.randn(rows, columns, generator=source).mul(gain / columns**0.5)

    def norm() -> Tensor:
        return 1 + 0.2 * torch.randn(width, generator=source)

    tensors = {"model.embed_tokens.weight": torch.randn(vocab, width, generator=source), "model.norm.weight": norm()}
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = matrix(vocab, width, 2.5)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        tensors[at + "input_layernorm.weight"] = norm()
        tensors[at + "post_attention_layernorm.weight"] = norm()
        for part, rows in (("q", width), ("k", keys), ("v", keys)):
            tensors[at + f"self_attn.{part}_proj.weight"] = matrix(rows, width)
            tensors[at + f"self_attn.{part}_proj.bias"] = 0.3 * torch.randn(rows, generator=source)
        tensors[at + "self_attn.o_proj.weight"] = matrix(width, width)
        tensors[at + "mlp.gate_proj.weight"] = matrix(mlp, width)
        tensors[at + "mlp.up_proj.weight"] = matrix(mlp, width)
        tensors[at + "mlp.down_proj.weight"] = matrix(width, mlp)
    return tensors


def write_checkpoint(
    directory: Path,
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    shards: int = 1,
) -> Path:
    """Write config.json and the weights, in one file or in several with an index."""
    directory.mkdir(parents=True, exist_ok=True)
    config = CONFIG if config is None else config
    if tensors is None:
        tensors = (dream_tensors_of if config.get("model_type") == "Dream" else tensors_of)(config, seed)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if shards == 1:
        save_file(dict(tensors), directory / "model.safetensors")
        return directory
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[shard::shards])
        save_file(part, directory / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return directory


def write_tokenizer(directory: Path, template: str | None = CHAT, lowercase: bool = False) -> Path:
    """Write a byte-level tokenizer with SPECIAL tokens, BASE_SPECIAL without a template.

    `lowercase` folds case, also before special tokens match.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    special = BASE_SPECIAL if template is None else SPECIAL
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=lowercase) for token in special])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"bos_token": SPECIAL[0], "eos_token": {"content": SPECIAL[1]}, "pad_token": SPECIAL[1]}
    if template is not None:
        settings["chat_template"] = template
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory
