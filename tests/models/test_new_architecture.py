"""A new architecture is one file: another package offers it, and everything that dkv does with a model follows.

What it computes is compared with a plain reference, written here with torch.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

import dkv
from dkv.core.layer_rules import DENSE
from dkv.core.packing import pack
from dkv.errors import SpecError, UnsupportedModelError
from dkv.models import Transformer, architecture_of, known_architectures
from tests.support import qwen3_like

SOURCE = Path(qwen3_like.__file__)
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3LikeForMaskedDiffusion"],
    "attention_bias": False,
    "eos_token_id": 60,
    "head_dim": 12,
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "mask_token_id": 61,
    "max_position_embeddings": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "vocab_size": 64,
}
CACHES = ("none", "dkv-decode:refresh=3", "dllm-cache:kp=4,kr=2,rho=0.4")


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `pip install` leaves of a package with the architecture's file and one entry point."""
    site = tmp_path / "site"
    info = site / "qwen3_like-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copyfile(SOURCE, site / "qwen3_like_model.py")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qwen3-like\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[dkv.models]\nqwen3-like = qwen3_like_model\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(site))
    return info


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Random weights, large enough that tokens depend on each other."""
    draw = torch.Generator().manual_seed(5)

    def weight(shape: tuple[int, ...]) -> Tensor:
        made = torch.randn(shape, generator=draw)
        return 1 + 0.2 * made if len(shape) == 1 else made * 1.5 / shape[1] ** 0.5

    directory = tmp_path / "checkpoint"
    directory.mkdir()
    shapes = qwen3_like.weight_map(qwen3_like.configure(CONFIG)).shapes()
    save_file({name: weight(shape) for name, shape in shapes}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return directory


def reference(tokens: list[int], weights: dict[str, Tensor]) -> Tensor:
    """Logits [T, V] of every position, in float64."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    heads, groups, size = (CONFIG[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    rate = CONFIG["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = (torch.arange(len(tokens))[:, None] * rate)[None]

    def norm(x: Tensor, name: str) -> Tensor:
        eps: float = CONFIG["rms_norm_eps"]
        return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * w[name + ".weight"]

    def by_head(x: Tensor, count: int) -> Tensor:
        return x.view(len(tokens), count, size).transpose(0, 1)

    def rotated(x: Tensor) -> Tensor:
        low, high = x.chunk(2, dim=-1)
        return torch.cat((low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()), dim=-1)

    x = w["model.embed_tokens.weight"][tokens]
    for layer in range(CONFIG["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        h = norm(x, at + "input_layernorm")
        q, k, v = (h @ w[f"{at}self_attn.{name}_proj.weight"].T for name in "qkv")
        q = rotated(norm(by_head(q, heads), at + "self_attn.q_norm"))
        k = rotated(norm(by_head(k, groups), at + "self_attn.k_norm")).repeat_interleave(heads // groups, 0)
        v = by_head(v, groups).repeat_interleave(heads // groups, 0)
        attended = (q @ k.transpose(1, 2) / size**0.5).softmax(-1) @ v
        x = x + attended.transpose(0, 1).flatten(1) @ w[at + "self_attn.o_proj.weight"].T
        h = norm(x, at + "post_attention_layernorm")
        hidden = F.silu(h @ w[at + "mlp.gate_proj.weight"].T) * (h @ w[at + "mlp.up_proj.weight"].T)
        x = x + hidden @ w[at + "mlp.down_proj.weight"].T
    return norm(x, "model.norm") @ w["model.embed_tokens.weight"].T


def logits_of(lm: dkv.DiffusionLM, tokens: list[int]) -> Tensor:
    """Logits [T, V] of every position, by the loaded model."""
    at = pack(torch.ones(1, len(tokens), dtype=torch.bool), [len(tokens)], None)
    with torch.inference_mode():
        memory = lm.model.new_kv_cache(1, len(tokens))
        return lm.model.logits(lm.model.forward(torch.tensor(tokens), at, memory, DENSE))


def test_it_is_one_short_file_that_an_installed_package_offers() -> None:
    assert len(SOURCE.read_text(encoding="utf-8").splitlines()) <= 120
    assert "Qwen3LikeForMaskedDiffusion" in known_architectures()
    assert architecture_of(CONFIG).weight_map(architecture_of(CONFIG).configure(CONFIG)).config.family == "qwen3-like"


@pytest.mark.parametrize("compiled", [False, True])
def test_its_logits_are_the_reference_s(checkpoint: Path, compiled: bool) -> None:
    """Whatever is built for it, it computes the same."""
    lm = dkv.load(checkpoint, device="cpu", dtype="float32", compile=compiled)
    tokens = [3, 9, 61, 61, 14, 61, 2]
    expected = reference(tokens, load_file(checkpoint / "model.safetensors"))
    torch.testing.assert_close(logits_of(lm, tokens).double(), expected, rtol=1e-4, atol=1e-4)


def test_it_generates_with_every_kind_of_cache(checkpoint: Path) -> None:
    lm = dkv.load(checkpoint, device="cpu", dtype="float32", audit=True)
    for cache in CACHES:
        results = lm.generate([[5, 8, 33, 7], [9, 1]], gen_length=8, block_length=4, cache=cache, stop_at_eos=False)
        assert all(len(r.token_ids) == 8 and CONFIG["mask_token_id"] not in r.token_ids for r in results)
        assert (results[0].stats.rows_computed < results[0].stats.rows_total) == (cache != "none")


def test_tokens_without_a_cache_are_the_reference_s(checkpoint: Path) -> None:
    """One block, a token a step, the most confident position first."""
    lm, weights = dkv.load(checkpoint, device="cpu", dtype="float32"), load_file(checkpoint / "model.safetensors")
    tokens = [5, 8, 33, 7] + [CONFIG["mask_token_id"]] * 6
    for _ in range(6):
        scores = reference(tokens, weights).log_softmax(1)
        scores[:, CONFIG["mask_token_id"]] = -torch.inf
        best, token = scores.max(1)
        masked = torch.tensor(tokens) == CONFIG["mask_token_id"]
        place = int(best.masked_fill(~masked, -torch.inf).argmax())
        tokens[place] = int(token[place])
    result = lm.generate([5, 8, 33, 7], gen_length=6, block_length=6, steps=6, cache="none", stop_at_eos=False)[0]
    assert result.token_ids == tokens[4:]


def test_it_is_saved_and_loaded_again_and_packed(checkpoint: Path, tmp_path: Path) -> None:
    lm = dkv.load(checkpoint, device="cpu", dtype="float32")
    lm.save(tmp_path / "saved")
    one, other = (load_file(path / "model.safetensors") for path in (checkpoint, tmp_path / "saved"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    again = dkv.load(tmp_path / "saved", device="cpu", dtype="float32")
    assert torch.equal(logits_of(again, [3, 61, 7]), logits_of(lm, [3, 61, 7]))
    packed = dkv.load(checkpoint, device="cpu", dtype="float32", quantize="int8")
    assert isinstance(packed.model, Transformer)
    near = (logits_of(packed, [3, 61, 7]) - logits_of(lm, [3, 61, 7])).abs().mean()
    assert 0 < near < 0.2


def test_weights_that_its_parts_do_not_have_are_refused_by_name(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    surplus = "model.layers.0.self_attn.q_proj.bias"
    save_file({**weights, surplus: torch.zeros(48)}, checkpoint / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=surplus):
        dkv.load(checkpoint, device="cpu")
    del weights["model.layers.1.self_attn.k_norm.weight"]
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(dkv.CheckpointError, match=r"model\.layers\.1\.self_attn\.k_norm\.weight"):
        dkv.load(checkpoint, device="cpu")


@pytest.mark.parametrize(
    ("offered", "message"),
    [
        ("json", "'json' is no module with ARCHITECTURES, configure and weight_map; mend"),
        ("nowhere_to_be_found", "'nowhere_to_be_found' fails: ModuleNotFoundError"),
        ("llada_again", "'llada_again' names 'LLaDAModelLM', which is known already"),
    ],
)
def test_what_is_no_architecture_is_refused_by_its_entry_point(package: Path, offered: str, message: str) -> None:
    (package.parent / "llada_again.py").write_text("from dkv.models.llada import *\n", encoding="utf-8")
    (package / "entry_points.txt").write_text(f"[dkv.models]\nother = {offered}\n", encoding="utf-8")
    with pytest.raises(SpecError, match=message):
        known_architectures()
