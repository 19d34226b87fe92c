"""Writes a trained network as a published LLaDA or Dream checkpoint: config.json, weights in bf16, the tokenizer.

`python -m recipes.tiny.export --run RUN --to DIR` exports a run's last checkpoint, also while it trains on.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from dkv.tiny import MODEL_DIR
from recipes.tiny import tiny_tokenizer as tokenizers_files
from recipes.tiny.network import EPSILON, ROPE_THETA, Network, Shape


def llada_config(shape: Shape, tokenizer: Tokenizer) -> dict[str, object]:
    """The keys of LLaDA's published config.json with this network's values."""
    sizes: dict[str, object] = {
        "d_model": shape.width, "n_layers": shape.layers, "n_heads": shape.heads, "n_kv_heads": shape.heads,
        "mlp_hidden_size": shape.hidden, "mlp_ratio": 4, "vocab_size": shape.vocabulary,
        "embedding_size": shape.vocabulary, "max_sequence_length": shape.context,
        "rope_theta": ROPE_THETA, "rms_norm_eps": EPSILON,
    }  # fmt: skip
    fixed: dict[str, object] = {
        "architectures": ["LLaDAModelLM"], "model_type": "llada", "torch_dtype": "bfloat16",
        "activation_type": "silu", "block_type": "llama", "layer_norm_type": "rms", "rope": True,
        "rope_full_precision": True, "alibi": False, "alibi_bias_max": 8.0, "attention_dropout": 0.0,
        "attention_layer_norm": False, "attention_layer_norm_with_affine": True, "bias_for_layer_norm": False,
        "block_group_size": 1, "embedding_dropout": 0.0, "flash_attention": False, "include_bias": False,
        "include_qkv_bias": False, "init_cutoff_factor": None, "init_device": "cpu", "init_fn": "mitchell",
        "init_std": 0.02, "input_emb_norm": False, "layer_norm_with_affine": True, "multi_query_attention": None,
        "precision": None, "residual_dropout": 0.0, "scale_logits": False, "use_cache": False,
        "weight_tying": False,
    }  # fmt: skip
    return fixed | sizes | _ids(tokenizer)


def dream_config(shape: Shape, tokenizer: Tokenizer) -> dict[str, object]:
    """The keys of Dream's published config.json with this network's values."""
    sizes: dict[str, object] = {
        "hidden_size": shape.width, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.keys, "intermediate_size": shape.hidden, "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context, "rope_theta": ROPE_THETA, "rms_norm_eps": EPSILON,
    }  # fmt: skip
    fixed: dict[str, object] = {
        "architectures": ["DreamModel"], "model_type": "Dream", "torch_dtype": "bfloat16", "hidden_act": "silu",
        "attention_dropout": 0.0, "initializer_range": 0.02, "max_window_layers": shape.layers, "rope_scaling": None,
        "sliding_window": None, "tie_word_embeddings": False, "use_cache": False, "use_sliding_window": False,
    }  # fmt: skip
    return fixed | sizes | _ids(tokenizer) | {"bos_token_id": tokenizer.token_to_id(tokenizers_files.START)}


def _ids(tokenizer: Tokenizer) -> dict[str, object]:
    end = tokenizer.token_to_id(tokenizers_files.END)
    return {
        "mask_token_id": tokenizer.token_to_id(tokenizers_files.MASK), "eos_token_id": end, "pad_token_id": end,
    }  # fmt: skip


def dream_name(name: str) -> str:
    """Dream's name of a weight that LLaDA calls `name`."""
    parts = re.fullmatch(r"model\.transformer\.(?:blocks\.(\d+)\.)?(\w+)\.(\w+)", name)
    if parts is None:
        raise ValueError(f"{name} is no weight of the network")
    layer, part, kind = parts.groups()
    return f"{_OUTSIDE[part]}.{kind}" if layer is None else f"model.layers.{layer}.{_INSIDE[part]}.{kind}"


_OUTSIDE = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
_INSIDE = {
    "attn_norm": "input_layernorm", "ff_norm": "post_attention_layernorm", "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj", "v_proj": "self_attn.v_proj", "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj", "ff_out": "mlp.down_proj",
}  # fmt: skip


def export(network: Network, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the directory that `dkv.load` and the published programs read: Dream's where rows are shifted."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = network.shape
    name_of, config = (dream_name, dream_config) if shape.shift else (str, llada_config)
    weights = {
        name_of(name): t.detach().to("cpu", torch.bfloat16).contiguous() for name, t in network.state_dict().items()
    }
    file = folder / "model.safetensors"
    save_file(weights, file, metadata={"format": "pt"})
    file.chmod(0o644)  # the library writes it readable by its owner alone
    text = json.dumps(config(shape, tokenizer), indent=1, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    tokenizers_files.save(tokenizer, folder)


def network_of(weights: dict[str, torch.Tensor], heads: int, shift: int = 0) -> Network:
    """The network that weights under LLaDA's names fit; neither the number of heads nor the shift shows in them."""
    prefix = "model.transformer."
    vocabulary, width = weights[f"{prefix}wte.weight"].shape
    keys = weights[f"{prefix}blocks.0.k_proj.weight"].shape[0] * heads // width
    shape = Shape(
        width=width,
        layers=sum(name.endswith("q_proj.weight") for name in weights),
        heads=heads,
        hidden=weights[f"{prefix}blocks.0.ff_proj.weight"].shape[0],
        vocabulary=vocabulary,
        kv_heads=keys,
        biased=f"{prefix}blocks.0.q_proj.bias" in weights,
        shift=shift,
    )
    network = Network(shape)
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return network


def main() -> None:
    """Command line: export the checkpoint of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--to", type=Path, default=MODEL_DIR)
    parser.add_argument("--tokenizer", type=Path, default=MODEL_DIR)
    parser.add_argument("--heads", type=int, default=Shape.heads)
    parser.add_argument("--shift", type=int, default=Shape.shift, help="1 for a run with --shift 1")
    given = parser.parse_args()
    state = load_file(given.run / "state.safetensors")
    weights = {n.removeprefix("weight."): t for n, t in state.items() if n.startswith("weight.")}
    export(network_of(weights, given.heads, given.shift), tokenizers_files.load(given.tokenizer), given.to)


if __name__ == "__main__":
    main()
