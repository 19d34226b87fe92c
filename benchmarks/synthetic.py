"""Checkpoints of the published shapes with random weights, and what loading and generating with one takes.

    python benchmarks/synthetic.py --family llada --layers 2 --out DIR     # full width and vocabulary
    python benchmarks/synthetic.py --measure DIR

One tensor is in memory at a time, and the directory appears when it is whole.
"""

from __future__ import annotations

import argparse
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import torch

import dkv
from dkv.checkpoints.safetensors_header import Shape
from dkv.checkpoints.safetensors_writer import Planned, parse_size, write_shards
from dkv.core.dtypes import DTYPES
from dkv.models import architecture_of
from dkv.storage.atomic import new_directory

__all__ = ["CONFIGS", "config_of", "measure", "write"]

CONFIGS: dict[str, dict[str, Any]] = {
    "llada": {
        "architectures": ["LLaDAModelLM"], "model_type": "llada", "torch_dtype": "bfloat16", "d_model": 4096,
        "n_layers": 32, "n_heads": 32, "n_kv_heads": 32, "mlp_hidden_size": 12288, "mlp_ratio": 4,
        "vocab_size": 126464, "embedding_size": 126464, "max_sequence_length": 4096, "rope_theta": 500000.0,
        "rms_norm_eps": 1e-05, "mask_token_id": 126336, "eos_token_id": 126081, "pad_token_id": 126081,
        "activation_type": "silu", "alibi": False, "attention_layer_norm": False, "bias_for_layer_norm": False,
        "block_group_size": 1, "block_type": "llama", "include_bias": False, "include_qkv_bias": False,
        "input_emb_norm": False, "layer_norm_type": "rms", "layer_norm_with_affine": True,
        "multi_query_attention": None, "rope": True, "rope_full_precision": True, "scale_logits": False,
        "weight_tying": False,
    },
    "dream": {
        "architectures": ["DreamModel"], "model_type": "Dream", "torch_dtype": "bfloat16", "hidden_size": 3584,
        "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "vocab_size": 152064, "max_position_embeddings": 131072, "rope_theta": 1000000.0, "rope_scaling": None,
        "rms_norm_eps": 1e-06, "mask_token_id": 151666, "bos_token_id": 151643, "eos_token_id": 151643,
        "pad_token_id": 151643, "hidden_act": "silu", "initializer_range": 0.02, "max_window_layers": 28,
        "sliding_window": None, "use_sliding_window": False, "tie_word_embeddings": False, "use_cache": True,
    },
}  # fmt: skip
"""config.json of LLaDA-8B-Instruct and of Dream-v0-Instruct-7B, the keys that dkv reads and their neighbours."""

_LAYERS = {"llada": "n_layers", "dream": "num_hidden_layers"}
_HEADROOM = 1 << 24


def config_of(family: str, layers: int, dtype: str) -> dict[str, Any]:
    """A family's config.json with so many layers."""
    return {**CONFIGS[family], _LAYERS[family]: layers, "torch_dtype": dtype}


def write(out: Path, raw: dict[str, Any], dtype: torch.dtype, shard: int, tokenizer: Path | None = None) -> None:
    """Write config.json, random weights in files of at most `shard` bytes, and a copy of the files of `tokenizer`.

    Raises what `new_directory` raises.
    """
    module = architecture_of(raw)
    draw = torch.Generator().manual_seed(0)

    def planned(shape: Shape) -> Planned:
        return Planned(shape, dtype, lambda: _random(shape, dtype, draw))

    tensors = {name: planned(shape) for name, shape in module.NAMES.shapes(module.configure(raw))}
    with new_directory(out, sum(tensor.nbytes for tensor in tensors.values()) + _HEADROOM) as part:
        write_shards(part, tensors, shard)
        for file in () if tokenizer is None else (*tokenizer.glob("*token*.json"), *tokenizer.glob("*.jinja")):
            shutil.copyfile(file, part / file.name)
        (part / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


def _random(shape: Shape, dtype: torch.dtype, draw: torch.Generator) -> torch.Tensor:
    """A matrix that keeps activations of order one; vectors are norms (or biases) of ones."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=dtype)
    return torch.empty(shape, dtype=dtype).normal_(0.0, shape[1] ** -0.5, generator=draw)


def measure(directory: Path, dtype: str, gen_length: int, cache: str) -> dict[str, float | str]:
    """Seconds and memory of loading, then of generating `gen_length` tokens after a prompt of 64."""
    peak, before, done = [0], _anonymous(), threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], _anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    lm = dkv.load(directory, device="cpu", dtype=dtype)
    loaded = time.perf_counter() - began
    done.set()
    thread.join()
    weights = sum(tensor.nbytes for _, tensor in _tensors(lm))
    (result,) = lm.generate([list(range(64))], gen_length=gen_length, cache=cache, stop_at_eos=False, seed=0)
    return {
        "directory": directory.name,
        "load_seconds": round(loaded, 2),
        "weights_gb": round(weights / 1e9, 3),
        "peak_over_weights": round((max(peak[0], _anonymous()) - before) / weights, 3),
        "generate_seconds": round(result.stats.seconds, 2),
        "tokens_per_second": round(result.stats.tokens_per_second, 2),
        "rows_share": round(result.stats.rows_computed / result.stats.rows_total, 3),
        "anonymous_gb_after": round(_anonymous() / 1e9, 3),
    }


def _tensors(lm: dkv.DiffusionLM) -> list[tuple[str, torch.Tensor]]:
    raw = json.loads((lm.directory / "config.json").read_text(encoding="utf-8")) if lm.directory else {}
    return list(architecture_of(raw).NAMES.tensors(lm.model))


def _anonymous() -> int:
    """Bytes of this process's own memory, as Linux counts them."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=CONFIGS, default="llada")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--max-shard-size", default="1GB")
    parser.add_argument("--tokenizer", type=Path, help="a directory whose tokenizer files are copied")
    parser.add_argument("--gen-length", type=int, default=16)
    parser.add_argument("--cache", default="dkv-decode")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="write a checkpoint there")
    what.add_argument("--measure", type=Path, help="load the checkpoint there and generate")
    given = parser.parse_args()
    try:
        if given.out is None:
            print(json.dumps(measure(given.measure, given.dtype, given.gen_length, given.cache), indent=2))
        else:
            raw = config_of(given.family, given.layers, given.dtype)
            write(given.out, raw, DTYPES[given.dtype], parse_size(given.max_shard_size), given.tokenizer)
    except dkv.DkvError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
