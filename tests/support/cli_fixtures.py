"""A tiny LLaDA checkpoint with random weights and a byte tokenizer, and ways to call `dkv` in and out of process."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from typer.testing import CliRunner, Result

from dkv.cli.commands import app
from tests.support.warm import program

WIDTH, MLP, LAYERS, VOCAB = 32, 64, 2, 259
EOS, MASK = 256, 257

Cli = Callable[..., Result]
Shell = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published-format directory without a chat template."""
    directory = tmp_path_factory.mktemp("checkpoint")
    config = {
        "architectures": ["LLaDAModelLM"], "activation_type": "silu", "block_type": "llama", "layer_norm_type": "rms",
        "rope": True, "d_model": WIDTH, "n_heads": 2, "n_layers": LAYERS, "mlp_hidden_size": MLP, "vocab_size": VOCAB,
        "max_sequence_length": 8192, "mask_token_id": MASK, "eos_token_id": EOS, "pad_token_id": EOS,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(_weights(), directory / "model.safetensors")
    _byte_tokenizer().save(str(directory / "tokenizer.json"))
    return directory


def _weights() -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (VOCAB, WIDTH), "ff_out.weight": (VOCAB, WIDTH)}
    for layer in range(LAYERS):
        at = f"blocks.{layer}."
        shapes |= {at + f"{name}.weight": (WIDTH, WIDTH) for name in ("q_proj", "k_proj", "v_proj", "attn_out")}
        shapes |= {at + "ff_proj.weight": (MLP, WIDTH), at + "up_proj.weight": (MLP, WIDTH)}
        shapes |= {at + "ff_out.weight": (WIDTH, MLP)}
    noise = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=noise) * 0.2 for name, shape in shapes.items()}
    norms = ["ln_f.weight", *(f"blocks.{i}.{name}.weight" for i in range(LAYERS) for name in ("attn_norm", "ff_norm"))]
    tensors |= {name: torch.ones(WIDTH) for name in norms}
    return {f"model.transformer.{name}": tensor for name, tensor in tensors.items()}


def _byte_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ("<|endoftext|>", "<|mdm_mask|>", "<|spare|>")
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    return tokenizer


@pytest.fixture
def cli() -> Cli:
    """Call the application in this process: `cli("caches", "--json")`."""

    def call(*arguments: str, **more: str | bytes) -> Result:
        return CliRunner().invoke(app, list(arguments), input=more.get("input"))

    return call


@pytest.fixture
def shell() -> Shell:
    """Call the program in a process of its own, with pipes for its streams."""

    def call(*arguments: str, input: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:  # noqa: A002
        return subprocess.run(
            [*program(), *arguments],
            input=input,
            capture_output=True,
            env={**os.environ, **environment},
            timeout=60,
            check=False,
        )

    return call


def one_error(result: Result) -> str:
    """The one line that a failed call wrote; checks that there is nothing else and that the exit code is 2."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr
