"""Dream: its config is read or refused key by key, and its rows predict their right neighbour."""

from __future__ import annotations

from typing import Any

import pytest

from dkv.errors import CheckpointError, UnsupportedModelError
from dkv.models import dream, known_architectures
from dkv.models.dream import configure
from tests.support.checkpoints import dream_config_of

FULL: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 131072,
    "rope_theta": 1000000.0,
    "mask_token_id": 151666,
    "eos_token_id": 151643,
    "pad_token_id": 151643,
}


def test_the_published_config() -> None:
    config = configure(dream_config_of(**FULL))
    assert (config.family, config.shift, config.default_decoder) == ("dream", 1, "entropy")
    assert (config.layers, config.width, config.heads, config.kv_heads, config.head_dim) == (28, 3584, 28, 4, 128)
    assert (config.mlp_width, config.vocab, config.context, config.rope_theta) == (18944, 152064, 131072, 1e6)
    assert (config.mask_id, config.eos_ids, config.pad_id) == (151666, (151643,), 151643)


def test_it_is_found_by_its_architecture() -> None:
    assert known_architectures()["DreamModel"] is dream


def test_newer_programs_write_the_rotary_base_elsewhere() -> None:
    raw = dream_config_of(rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    assert configure(raw).rope_theta == 500.0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "gelu"),
        ("mlp_bias", True),
        ("use_sliding_window", True),
        ("rope_scaling", {"type": "yarn", "factor": 4.0}),
        ("rope_scaling", "linear"),
        ("rope_parameters", {"rope_type": "yarn"}),
    ],
)
def test_other_mathematics_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(UnsupportedModelError, match=f"config.json: {key}="):
        configure(dream_config_of(**{key: value}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 3}, "do not divide into even heads"),
        ({"num_key_value_heads": 3}, "do not divide into even heads"),
        ({"hidden_size": 0}, "hidden_size=0 must be a positive whole number"),
        ({"mask_token_id": 1 << 20}, "mask_token_id=1048576 must be a token id below"),
    ],
)
def test_damaged_configs_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        configure(dream_config_of(**changes))
