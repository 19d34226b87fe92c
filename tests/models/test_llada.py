"""LLaDA: its config is read or refused key by key, and its mathematics is that of the slow oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dkv.core.packing import pack
from dkv.errors import CheckpointError, UnsupportedModelError
from dkv.models import Transformer, known_architectures, load_model
from dkv.models.llada import configure
from tests.support.checkpoints import EOS, MASK, VOCAB, config_of, tensors_of, write_checkpoint
from tests.support.oracle import Oracle

CPU = torch.device("cpu")


def test_the_facts_of_a_config() -> None:
    config = configure(config_of())
    assert (config.family, config.shift, config.default_decoder) == ("llada", 0, "confidence")
    assert (config.layers, config.width, config.heads, config.kv_heads, config.head_dim) == (2, 32, 4, 4, 8)
    assert (config.mlp_width, config.vocab, config.context) == (48, VOCAB, 96)
    assert (config.mask_id, config.eos_ids, config.pad_id, config.tied) == (MASK, (EOS,), EOS, False)
    assert (config.norm_eps, config.rope_theta) == (1e-5, 10000.0)


def test_facts_that_may_be_left_out() -> None:
    raw = config_of(n_kv_heads=None, mlp_hidden_size=None, embedding_size=None, eos_token_id=[EOS, 3])
    for key in ("pad_token_id", "rope_theta", "rms_norm_eps", "alibi", "weight_tying"):
        del raw[key]
    config = configure(raw)
    assert (config.kv_heads, config.mlp_width, config.vocab, config.tied) == (4, 4 * 32, VOCAB, False)
    assert (config.eos_ids, config.pad_id, config.norm_eps, config.rope_theta) == ((EOS, 3), EOS, 1e-5, 10000.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation_type", "swiglu"),
        ("alibi", True),
        ("attention_layer_norm", True),
        ("bias_for_layer_norm", True),
        ("block_group_size", 2),
        ("block_type", "sequential"),
        ("clip_qkv", 8.0),
        ("include_bias", True),
        ("include_qkv_bias", True),
        ("input_emb_norm", True),
        ("layer_norm_type", "default"),
        ("layer_norm_with_affine", False),
        ("multi_query_attention", True),
        ("rope", False),
        ("rope_full_precision", False),
        ("rope_scaling", {"type": "linear"}),
        ("scale_logits", True),
    ],
)
def test_other_mathematics_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=f"config.json: {key}=") as caught:
        configure(config_of(**{key: value}))
    assert "\n" not in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("d_model", None),
        ("d_model", 33),
        ("d_model", 12),
        ("n_heads", 0),
        ("n_heads", "4"),
        ("n_heads", True),
        ("n_kv_heads", 3),
        ("n_layers", -1),
        ("n_layers", 2.0),
        ("mlp_hidden_size", 0),
        ("embedding_size", 1 << 40),
        ("max_sequence_length", None),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", "small"),
        ("rope_theta", float("inf")),
        ("rope_theta", float("nan")),
        ("mask_token_id", None),
        ("mask_token_id", VOCAB),
        ("mask_token_id", -1),
        ("eos_token_id", None),
        ("eos_token_id", []),
        ("eos_token_id", [1, "2"]),
        ("pad_token_id", VOCAB),
    ],
)
def test_impossible_facts_are_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match="config.json: .*" + key) as caught:
        configure(config_of(**{key: value}))
    assert "\n" not in str(caught.value)


def test_the_architecture_is_known() -> None:
    assert "LLaDAModelLM" in known_architectures()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_kv_heads": 2},
        {"n_kv_heads": 1, "weight_tying": True},
        {"rope_theta": 500.0, "rms_norm_eps": 1e-2},
    ],
)
def test_a_full_forward_is_that_of_the_oracle(changes: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(**changes)
    tensors = tensors_of(config, seed=3)
    model = load_model(write_checkpoint(tmp_path, config, tensors), CPU, torch.float32)
    tokens = [5, 200, 7, 7, MASK, 0, 31]
    wanted, _ = Oracle(config, tensors).forward(tokens, list(range(7)), [{}, {}])
    at = pack(torch.ones(1, 7, dtype=torch.bool), [7], None)
    got = model.logits(model.forward(torch.tensor(tokens), at, model.new_kv_cache(1, 7)))
    torch.testing.assert_close(got, torch.stack([wanted[p] for p in range(7)]).float(), atol=1e-4, rtol=1e-4)


def test_rows_of_a_part_equal_rows_of_the_whole(grouped: Transformer) -> None:
    """Computing some rows over slots that the same tokens filled gives what computing all of them gives."""
    tokens = torch.tensor([[5, 6, 7, 8, 9], [1, 2, 3, 4, 0]])
    everything, some = torch.ones(2, 5, dtype=torch.bool), torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0]]).bool()
    memory = grouped.new_kv_cache(2, 5)
    whole = grouped.forward(tokens.flatten(), pack(everything, [5, 5], None), memory)
    part = grouped.forward(tokens[some], pack(some, [3, 1], None), memory)
    torch.testing.assert_close(part, whole.view(2, 5, -1)[some], atol=1e-5, rtol=1e-5)


def test_the_last_position_of_the_context_works(model: Transformer) -> None:
    width = model.config.context
    at = pack(torch.ones(1, width, dtype=torch.bool), [width], None)
    hidden = model.forward(torch.zeros(width, dtype=torch.int64), at, model.new_kv_cache(1, width))
    assert hidden.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype: torch.dtype, bare: Path) -> None:
    model = load_model(bare, CPU, dtype)
    assert model.dtype == dtype
    assert model.device == CPU
    at = pack(torch.ones(1, 4, dtype=torch.bool), [4], None)
    logits = model.logits(model.forward(torch.tensor([1, 2, 3, 4]), at, model.new_kv_cache(1, 4)))
    exact = load_model(bare, CPU, torch.float32)
    wanted = exact.logits(exact.forward(torch.tensor([1, 2, 3, 4]), at, exact.new_kv_cache(1, 4)))
    assert logits.dtype == dtype
    assert float((logits - wanted).abs().max()) < (0.5 if dtype == torch.bfloat16 else 0.05)
