"""Writes a trained network as a published LLaDA checkpoint: config.json, model.safetensors in bf16, the tokenizer.

`python -m dkv.tiny.export --run RUN --to DIR` exports a run's last checkpoint, also while it trains on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from dkv.tiny import MODEL_DIR
from dkv.tiny import tokenizer as tokenizers_files
from dkv.tiny.network import EPSILON, ROPE_THETA, Network, Shape


def config(shape: Shape, tokenizer: Tokenizer) -> dict[str, object]:
    """The keys of LLaDA's published config.json with this network's values."""
    sizes: dict[str, object] = {
        "d_model": shape.width, "n_layers": shape.layers, "n_heads": shape.heads, "n_kv_heads": shape.heads,
        "mlp_hidden_size": shape.hidden, "mlp_ratio": 4, "vocab_size": shape.vocabulary,
        "embedding_size": shape.vocabulary, "max_sequence_length": shape.context,
        "rope_theta": ROPE_THETA, "rms_norm_eps": EPSILON,
        "mask_token_id": tokenizer.token_to_id(tokenizers_files.MASK),
        "eos_token_id": tokenizer.token_to_id(tokenizers_files.END),
        "pad_token_id": tokenizer.token_to_id(tokenizers_files.END),
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
    return fixed | sizes


def export(network: Network, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the directory that `dkv.load` and the published programs read."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: t.detach().to("cpu", torch.bfloat16).contiguous() for name, t in network.state_dict().items()}
    file = folder / "model.safetensors"
    save_file(weights, file, metadata={"format": "pt"})
    file.chmod(0o644)  # the library writes it readable by its owner alone
    text = json.dumps(config(network.shape, tokenizer), indent=1, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    tokenizers_files.save(tokenizer, folder)


def network_of(weights: dict[str, torch.Tensor], heads: int) -> Network:
    """The network that published weights fit; the number of heads does not show in them."""
    prefix = "model.transformer."
    vocabulary, width = weights[f"{prefix}wte.weight"].shape
    layers = sum(name.endswith("q_proj.weight") for name in weights)
    hidden = weights[f"{prefix}blocks.0.ff_proj.weight"].shape[0]
    network = Network(Shape(width, layers, heads, hidden, vocabulary))
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return network


def main() -> None:
    """Command line: export the checkpoint of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--to", type=Path, default=MODEL_DIR)
    parser.add_argument("--tokenizer", type=Path, default=MODEL_DIR)
    parser.add_argument("--heads", type=int, default=Shape.heads)
    given = parser.parse_args()
    state = load_file(given.run / "state.safetensors")
    weights = {n.removeprefix("weight."): t for n, t in state.items() if n.startswith("weight.")}
    export(network_of(weights, given.heads), tokenizers_files.load(given.tokenizer), given.to)


if __name__ == "__main__":
    main()
