"""Accuracies of an exported model on the frozen sets, without a cache, one token a step in order of confidence:
`python -m dkv.tiny.measure`. These are the figures of the model card; `dkv eval` measures the engine itself."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from dkv.tiny import MODEL_DIR, load_eval
from dkv.tiny.export import network_of
from dkv.tiny.sampler import accuracy
from dkv.tiny.tasks import EVALUATED
from dkv.tiny.tokenizer import load


def main() -> None:
    """Print one line a task: accuracy, number of examples, seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--speed", type=int, default=1, help="tokens committed a step")
    parser.add_argument("--bf16", action="store_true")
    given = parser.parse_args()
    config = json.loads((given.model / "config.json").read_text(encoding="utf-8"))
    network = network_of(load_file(given.model / "model.safetensors"), config["n_heads"]).eval()
    tokenizer = load(given.model)
    for name, task in EVALUATED.items():
        began = time.monotonic()
        with torch.autocast("cpu", torch.bfloat16, enabled=given.bf16):
            found = accuracy(network, tokenizer, task, load_eval(name)[: given.count], given.speed)
        print(f"{name:8} {found:.3f} of {given.count} ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
