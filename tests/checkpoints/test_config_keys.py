"""Keys that several families share: newer spellings are read, contradictions and other mathematics refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import dkv
from dkv.checkpoints.config_keys import flat_config, rope_theta
from dkv.checkpoints.special_tokens import complete_ids
from dkv.errors import CheckpointError, UnsupportedModelError
from dkv.models import dream, llada
from dkv.models.saving import convert
from tests.support.checkpoints import CONFIG, DREAM_CONFIG, config_of, dream_config_of, write_checkpoint
from tests.support.cli_fixtures import Cli, cli

__all__ = ["cli"]

FAMILIES: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], Any]]] = {
    "llada": (CONFIG, llada.configure),
    "dream": (DREAM_CONFIG, dream.configure),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def configured(family: str, **changes: Any) -> Any:
    raw, configure = FAMILIES[family]
    return configure(complete_ids({**raw, **changes}, {}, {}))


DECLARED: list[dict[str, Any]] = [
    {"rope_parameters": {"rope_type": "default", "rope_theta": 500000}},
    {"rope_parameters": {"rope_theta": 500000.0}},
    {"rope_parameters": {"type": "default", "rope_theta": 500000.0, "factor": 1.0, "partial_rotary_factor": 1.0}},
    {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 500000.0}}},
    {"rope_scaling": {"rope_type": "default", "rope_theta": 500000.0}},
    {"rope_theta": 500000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    {"rope_theta": 500000.0, "rope_parameters": {"rope_type": "default"}, "rope_scaling": None},
    {"rope_theta": 500000.0, "rope_scaling": {"type": "default"}},
    {"rope_theta": 500000.0, "rope_scaling": "default"},
    {"text_config": {"rope_theta": 500000.0}},
    {"text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}},
]


@pytest.mark.parametrize("declared", DECLARED)
def test_the_rotary_base_is_read_from_wherever_it_stands(declared: dict[str, Any], family: str) -> None:
    assert configured(family, **{"rope_theta": None, **declared}).rope_theta == 500000.0


def test_a_number_that_is_no_float_is_refused(family: str) -> None:
    with pytest.raises(CheckpointError, match=r"rope_theta=1000.* must be a positive number"):
        configured(family, rope_theta=10**400)


def test_nothing_declared_is_the_published_default(family: str) -> None:
    assert configured(family, rope_theta=None).rope_theta == 10000.0


@pytest.mark.parametrize(
    "declared",
    [
        {"rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_theta": 1e4, "rope_scaling": {"type": "default", "rope_theta": 5e5}},
        {"rope_theta": None, "rope_parameters": {"a": {"rope_theta": 1e4}, "b": {"rope_theta": 5e5}}},
        {"rope_theta": 1e4, "text_config": {"rope_theta": 5e5}},
    ],
)
def test_two_bases_that_differ_are_an_error(declared: dict[str, Any], family: str) -> None:
    with pytest.raises(CheckpointError, match=r"rope_theta=.*but .*rope_theta=.*; keep the one that is right"):
        configured(family, **declared)


SCALED = [
    ("rope_parameters", {"rope_type": "yarn", "factor": 4.0, "rope_theta": 5e5}),
    ("rope_parameters", {"type": "linear", "factor": 2.0}),
    ("rope_parameters", {"full_attention": {"rope_type": "llama3"}}),
    ("rope_parameters", {"rope_theta": 5e5, "factor": 4.0}),
    ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.5}),
    ("rope_parameters", {"rope_type": "default", "mrope_section": [16, 24, 24]}),
    ("rope_parameters", "yarn"),
    ("rope_scaling", {"rope_type": "dynamic", "factor": 2.0}),
    ("rope_scaling", {"type": "longrope"}),
    ("rope_scaling", {"factor": 2.0}),
    ("rope_scaling", [2.0]),
    ("text_config", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
]


@pytest.mark.parametrize(("key", "value"), SCALED)
def test_scaled_positions_are_refused_by_name(key: str, value: Any, family: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"config.json: rope_\w+=.* is not supported"):
        configured(family, rope_theta=None, **{key: value})


CHANGING: dict[str, Any] = {
    "sliding_window": 64,
    "layer_types": ["full_attention", "sliding_attention"],
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "logits_soft_cap": 30.0,
    "logit_scale": 0.0625,
    "logits_scaling": 8.0,
    "lm_head_multiplier": 0.5,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "residual_scale": 0.22,
    "attention_temperature": 0.5,
    "embedding_layer_norm": True,
    "attention_multiplier": 0.0078125,
    "attention_scale": 0.5,
    "attn_scale": 0.5,
    "attention_scaling": 2.0,
    "query_pre_attn_scalar": 256,
    "scale_emb": 12,
    "scale_depth": 1.4,
    "scale_embedding": True,
    "use_qk_norm": True,
    "qk_norm": True,
    "qk_layernorm": True,
    "num_experts": 8,
    "n_routed_experts": 64,
    "moe_intermediate_size": 512,
    "partial_rotary_factor": 0.5,
    "rotary_pct": 0.25,
    "rope_local_base_freq": 10000.0,
    "rope_interleaved": True,
    "attention_sinks": 4,
    "attention_window_size": 128,
    "use_parallel_residual": True,
    "position_embedding_type": "absolute",
    "is_causal": True,
    "use_causal_mask": True,
    "bd_size": 32,
    "lm_head_bias": True,
    "norm_after": True,
    "vision_config": {"hidden_size": 1024},
    "quantization_config": {"quant_method": "fp8"},
}


@pytest.mark.parametrize("key", CHANGING)
def test_keys_that_change_the_mathematics_are_refused_by_name(key: str, family: str) -> None:
    changes = {"use_sliding_window": None} if key == "sliding_window" else {}
    with pytest.raises(UnsupportedModelError, match=f"config.json: {key}=.*not supported") as caught:
        configured(family, **{key: CHANGING[key]}, **changes)
    assert "\n" not in str(caught.value)


HARMLESS: dict[str, Any] = {
    "use_qk_norm": False,
    "final_logit_softcapping": None,
    "logit_scale": 1.0,
    "embedding_multiplier": 1,
    "num_experts": 0,
    "partial_rotary_factor": 1.0,
    "position_embedding_type": "rope",
    "layer_types": ["full_attention", "full_attention"],
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "max_window_layers": 28,
    "dtype": "bfloat16",
    "transformers_version": "5.0.0",
    "is_causal": False,
    "some_new_key": 7,
}


@pytest.mark.parametrize("key", HARMLESS)
def test_keys_that_change_nothing_are_taken(key: str, family: str) -> None:
    assert configured(family, **{key: HARMLESS[key]}) == configured(family)


def test_a_window_that_is_not_used_is_none() -> None:
    assert configured("dream", sliding_window=131072, use_sliding_window=False) == configured("dream")


@pytest.mark.parametrize(
    ("other", "key", "value"),
    [("hidden_size", "d_model", 32), ("num_hidden_layers", "n_layers", 2), ("num_attention_heads", "n_heads", 4)],
)
def test_llada_under_the_common_names(other: str, key: str, value: int) -> None:
    assert configured("llada", **{key: None, other: value}) == configured("llada")
    with pytest.raises(CheckpointError, match=f"{key}={value}, but {other}=99; keep the right one"):
        configured("llada", **{other: 99})
    with pytest.raises(UnsupportedModelError, match="activation_type='gelu'"):
        configured("llada", activation_type=None, hidden_act="gelu")
    with pytest.raises(UnsupportedModelError, match="head_dim=16"):
        configured("llada", head_dim=16)


@pytest.mark.parametrize(("family", "key"), [("llada", "weight_tying"), ("dream", "tie_word_embeddings")])
def test_a_switch_is_true_or_false(family: str, key: str) -> None:
    with pytest.raises(CheckpointError, match=f"{key}='false' must be true or false"):
        configured(family, **{key: "false"})


def test_a_nested_config_is_read_and_must_not_contradict() -> None:
    nested = {key: CONFIG[key] for key in ("d_model", "n_heads", "n_kv_heads", "n_layers")}
    outer = {key: value for key, value in CONFIG.items() if key not in nested}
    flat = flat_config({**outer, "text_config": {**nested, "model_type": "x", "torch_dtype": "float16"}})
    assert llada.configure(complete_ids(flat, {}, {})) == configured("llada")
    with pytest.raises(CheckpointError, match=r"n_layers=2, but text_config.n_layers=3"):
        flat_config({**CONFIG, "text_config": {"n_layers": 3}})


@given(st.dictionaries(st.sampled_from(["rope_theta", "rope_parameters", "rope_scaling"]), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from(["rope_theta", "type", "rope_type", "factor", "x"]), inner, max_size=3),
    max_leaves=6,
)))  # fmt: skip
def test_whatever_stands_there_is_a_base_or_one_line(raw: dict[str, Any]) -> None:
    try:
        found = rope_theta(raw, "LLaDA", 10000.0)
    except CheckpointError as error:
        line = str(error)
    else:
        line = f"{found:g}"
        assert found > 0
    assert "\n" not in line


LLADA_BLOCK, DREAM_LAYER = "model.transformer.blocks.0.", "model.layers.0."
UNKNOWN: dict[str, tuple[dict[str, Any], str, tuple[int, ...]]] = {
    "normed queries": (DREAM_CONFIG, DREAM_LAYER + "self_attn.q_norm.weight", (8,)),
    "normed queries of llada": (CONFIG, "model.layers.0.self_attn.q_norm.weight", (8,)),
    "a bias where there is none": (CONFIG, LLADA_BLOCK + "q_proj.bias", (32,)),
    "a bias of the output": (DREAM_CONFIG, DREAM_LAYER + "self_attn.o_proj.bias", (32,)),
    "a bias of the head": (DREAM_CONFIG, "lm_head.bias", (272,)),
    "one layer more": (CONFIG, "model.transformer.blocks.2.attn_norm.weight", (32,)),
    "an adapter": (CONFIG, LLADA_BLOCK + "q_proj.lora_A.weight", (4, 32)),
    "an adapter of peft": (DREAM_CONFIG, "base_model.model.layers.0.self_attn.q_proj.lora_B.weight", (32, 4)),
    "a scale": (DREAM_CONFIG, DREAM_LAYER + "mlp.up_proj.weight_scale", (1,)),
    "learned positions": (CONFIG, "model.transformer.wpe.weight", (96, 32)),
    "another head": (CONFIG, "lm_head.weight", (272, 32)),
    "a gate of experts": (DREAM_CONFIG, DREAM_LAYER + "mlp.gate.weight", (8, 32)),
}  # fmt: skip


def add_tensor(directory: Path, name: str, tensor: torch.Tensor) -> None:
    tensors = load_file(directory / "model.safetensors")
    save_file({**tensors, name: tensor}, directory / "model.safetensors")


@pytest.mark.parametrize("what", UNKNOWN)
def test_tensors_that_the_model_does_not_have_are_refused_by_name(what: str, cli: Cli, tmp_path: Path) -> None:
    config, name, shape = UNKNOWN[what]
    directory = write_checkpoint(tmp_path / "model", config)
    add_tensor(directory, name, torch.ones(shape))
    with pytest.raises(UnsupportedModelError, match=r"model of config\.json does not have") as caught:
        dkv.load(directory, device="cpu", dtype="float32")
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UnsupportedModelError, match="does not have"):
        convert(directory, tmp_path / "out", None, 10**9)
    facts = json.loads(cli("inspect", str(directory), "--json").stdout)
    assert repr(name) in facts["unsupported"][0]


@pytest.mark.parametrize(
    "name",
    [
        DREAM_LAYER + "self_attn.rotary_emb.inv_freq",
        "model.rotary_emb.inv_freq",
        "model.rotary_emb.original_inv_freq",
        DREAM_LAYER + "self_attn.rotary_emb.cos_cached",
        "model.embeddings.position_ids",
    ],
)
def test_buffers_that_follow_from_the_config_are_taken(name: str, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model", DREAM_CONFIG)
    add_tensor(directory, name, torch.ones(4))
    assert dkv.load(directory, device="cpu", dtype="float32")


TIED = {
    "llada": (config_of(weight_tying=True), "model.transformer.wte.weight", "model.transformer.ff_out.weight"),
    "dream": (dream_config_of(tie_word_embeddings=True), "model.embed_tokens.weight", "lm_head.weight"),
}


@pytest.mark.parametrize("family", TIED)
def test_a_tied_head_that_is_stored_must_be_the_embedding(family: str, tmp_path: Path) -> None:
    config, embedding, head = TIED[family]
    directory = write_checkpoint(tmp_path / "model", config)
    same = load_file(directory / "model.safetensors")[embedding].clone()
    add_tensor(directory, head, same)
    assert dkv.load(directory, device="cpu", dtype="float32")
    for other in (same + 1, same[:-1].clone()):
        add_tensor(directory, head, other)
        with pytest.raises(UnsupportedModelError, match=f"ties the head to the embedding, but '{head}' is stored and"):
            dkv.load(directory, device="cpu", dtype="float32")
        with pytest.raises(UnsupportedModelError, match="ties the head"):
            convert(directory, tmp_path / "out", None, 10**9)


def test_a_base_in_the_newer_place_gives_the_same_tokens(tmp_path: Path) -> None:
    old = write_checkpoint(tmp_path / "old", config_of(rope_theta=500000.0))
    newer = {k: v for k, v in CONFIG.items() if k != "rope_theta"}
    newer["rope_parameters"] = {"rope_type": "default", "rope_theta": 500000.0}
    write_checkpoint(tmp_path / "new", newer)
    one, other = (
        dkv.load(place, device="cpu", dtype="float32").generate([[1, 2, 3]], gen_length=8, stop_at_eos=False)[0]
        for place in (old, tmp_path / "new")
    )
    assert one.token_ids == other.token_ids


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_activation": "gelu"},
        {"activation_function": "gelu"},
        {"act_fn": "relu"},
        {"activation_type": "gelu"},
        {"hidden_act": "gelu"},
        {"layer_norm_eps": 1e-3},
        {"norm_eps": 1e-3},
        {"embed_scale": 2.0},
        {"emb_scale": 2.0},
        {"softmax_scale": 0.5},
        {"attention_logit_cap": 5.0},
        {"width_mult": 2.0},
        {"attention_type": "causal"},
        {"attn_type": "block_causal"},
        {"attention_mode": "block_diff"},
        {"bidirectional": False},
        {"full_attn_mask": False},
        {"norm_type": "layernorm"},
        {"normalization": "layernorm"},
        {"zero_centered_gamma": True},
        {"rms_norm_add_unit_offset": True},
        {"model_config": {"qk_norm": True}},
        {"backbone_config": {"rope_theta": 5.0}},
    ],
    ids=str,
)
def test_other_programs_words_for_other_mathematics_are_refused_by_name(changes: dict[str, Any], family: str) -> None:
    (key,) = changes
    named = next(iter(changes[key])) if isinstance(changes[key], dict) else key
    with pytest.raises((CheckpointError, UnsupportedModelError), match=rf"^config\.json: .*\b{named}="):
        configured(family, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_activation": "silu"},
        {"attention_type": "full"},
        {"attn_type": "sdpa"},
        {"norm_type": "rmsnorm"},
        {"bidirectional": True},
        {"full_attn_mask": True},
        {"mup_base_width": None},
    ],
    ids=str,
)
def test_other_programs_words_for_the_same_mathematics_are_taken(changes: dict[str, Any], family: str) -> None:
    assert configured(family, **changes) == configured(family)


def test_an_epsilon_under_another_name_is_read(family: str) -> None:
    assert configured(family, rms_norm_eps=None, layer_norm_eps=1e-3).norm_eps == 1e-3


def test_a_long_value_is_cut_in_the_error(family: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        configured(family, rope_theta=10**400)
    assert len(str(caught.value)) < 200


def _llada_published() -> dict[str, Any]:
    """The keys of LLaDA-8B-Instruct's config.json."""
    names = ("configuration_llada.LLaDAConfig", "modeling_llada.LLaDAModelLM", "modeling_llada.LLaDAModelLM")
    return config_of(
        alibi_bias_max=8.0,
        attention_dropout=0.0,
        attention_layer_norm_with_affine=True,
        auto_map=dict(zip(("AutoConfig", "AutoModelForCausalLM", "AutoModel"), names, strict=True)),
        embedding_dropout=0.0,
        flash_attention=False,
        init_cutoff_factor=None,
        init_device="meta",
        init_fn="mitchell",
        init_std=0.02,
        precision="amp_bf16",
        residual_dropout=0.0,
        rope_theta=500000.0,
        transformers_version="4.46.3",
        use_cache=False,
    )


PUBLISHED: dict[str, dict[str, Any]] = {
    "LLaDA": _llada_published(),
    "LLaDA, saved again": {
        **_llada_published(),
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "tie_word_embeddings": True,
        "cross_attention_hidden_size": None,
        "add_cross_attention": False,
        "is_decoder": False,
        "pruned_heads": {},
        "repetition_penalty": 1.0,
        "top_k": 50,
        "torchscript": False,
        "dtype": "bfloat16",
        "use_bfloat16": False,
    },
    "Dream": dream_config_of(
        auto_map={"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
        torch_dtype="bfloat16",
        transformers_version="4.46.2",
    ),
    "DiffuCoder": dream_config_of(sliding_window=131072, use_mrope=False, max_window_layers=28),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_configs_load(name: str, tmp_path: Path) -> None:
    config = PUBLISHED[name]
    lm = dkv.load(write_checkpoint(tmp_path, config), device="cpu", dtype="float32")
    assert lm.model.config.rope_theta == config["rope_theta"]
    assert len(lm.generate([[1, 2]], gen_length=4)[0].token_ids) == 4
