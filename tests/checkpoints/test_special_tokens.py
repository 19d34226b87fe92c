"""Where the ids of control tokens come from, in which order, and that a key found nowhere is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dkv.checkpoints.special_tokens import complete_ids
from dkv.errors import CheckpointError
from dkv.models import load_model
from tests.support.checkpoints import BASE_SPECIAL, EOS, EOT, MASK, VOCAB, config_of, write_checkpoint, write_tokenizer
from tests.support.vocabularies import DREAM, LLADA, LLADA_BASE

KEYS = ("mask_token_id", "eos_token_id", "pad_token_id")
LLADA_CONFIG = {"architectures": ["LLaDAModelLM"], "vocab_size": 126464}
DREAM_CONFIG = {"architectures": ["DreamModel"], "vocab_size": 152064}


def ids(
    raw: dict[str, Any], generation_config: dict[str, Any] | None = None, added: dict[str, int] | None = None
) -> tuple[Any, ...]:
    completed = complete_ids(raw, generation_config or {}, added or {})
    assert {key: value for key, value in completed.items() if key not in KEYS} == {
        key: value for key, value in raw.items() if key not in KEYS
    }
    return tuple(completed[key] for key in KEYS)


def test_a_complete_config_stays_as_it_is() -> None:
    raw = {"vocab_size": 9, "mask_token_id": 7, "eos_token_id": [1, 2], "pad_token_id": 3, "architectures": ["Other"]}
    other = {"mask_token_id": 4, "eos_token_id": 5, "pad_token_id": 6}
    assert ids(raw, other, {"<|mask|>": 8, "<|endoftext|>": 0}) == (7, [1, 2], 3)


@pytest.mark.parametrize(
    ("config", "added", "published"),
    [
        (LLADA_CONFIG, LLADA, (126336, [126081, 126348], 126081)),
        (LLADA_CONFIG, LLADA_BASE, (126336, 126081, 126081)),
        (LLADA_CONFIG, {}, (126336, [126081, 126348], 126081)),
        (DREAM_CONFIG, DREAM, (151666, [151643, 151645], 151643)),
        (DREAM_CONFIG, {}, (151666, [151643, 151645], 151643)),
    ],
)
def test_the_published_ids(config: dict[str, Any], added: dict[str, int], published: tuple[Any, ...]) -> None:
    assert ids(config, {}, added) == published
    assert ids({**config, **dict.fromkeys(KEYS)}, dict.fromkeys(KEYS), added) == published


def test_the_order_of_the_files() -> None:
    generation, added = {"mask_token_id": 11, "eos_token_id": [12, 13], "pad_token_id": 14}, {"<|mask|>": 21}
    assert ids({**DREAM_CONFIG, "mask_token_id": 1}, generation, added) == (1, [12, 13], 14)
    assert ids(DREAM_CONFIG, generation, added) == (11, [12, 13], 14)
    assert ids(DREAM_CONFIG, {"mask_token_id": None}, added) == (21, 151643, 151643)
    assert ids(DREAM_CONFIG, {}, {"<|mdm_mask|>": 22, "<|endoftext|>": 23}) == (22, 23, 23)
    assert ids({**DREAM_CONFIG, "pad_token_id": 0}, generation, added)[2] == 0


@pytest.mark.parametrize("sizes", [{"vocab_size": 300}, {"vocab_size": 290, "embedding_size": 300}])
def test_what_does_not_fit_the_vocabulary_does_not_count(sizes: dict[str, Any]) -> None:
    raw = {"architectures": ["LLaDAModelLM"], **sizes}
    generation = {"mask_token_id": 300, "eos_token_id": [1, 300]}
    added = {"<|mdm_mask|>": 299, "<|endoftext|>": 298, "<|eot_id|>": 300}
    assert ids(raw, generation, added) == (299, 298, 298)


@pytest.mark.parametrize("value", [300, -1, True, "7", 7.0, [], [None], {}])
def test_only_ids_count(value: Any) -> None:
    raw = {"vocab_size": 300}
    assert ids(raw, dict.fromkeys(KEYS, value), {"<|mask|>": 1, "<|endoftext|>": 2}) == (1, 2, 2)


def test_a_wrong_id_in_the_config_is_left_to_be_refused() -> None:
    raw = {"vocab_size": 9, "mask_token_id": "7", "eos_token_id": 99, "pad_token_id": -1}
    assert ids(raw, dict.fromkeys(KEYS, 1)) == ("7", 99, -1)


def test_a_published_id_that_is_another_token_is_not_taken() -> None:
    """As in models that reuse an architecture with a vocabulary of their own."""
    with pytest.raises(CheckpointError, match="mask_token_id is missing"):
        ids(LLADA_CONFIG, {}, {"<|something|>": 126336, "<|endoftext|>": 4})


@pytest.mark.parametrize("key", ["mask_token_id", "eos_token_id"])
def test_a_key_that_nothing_names(key: str) -> None:
    raw = {"architectures": ["LLaDAModelLM"], "vocab_size": 300, "mask_token_id": 1, "eos_token_id": 2}
    del raw[key]
    with pytest.raises(CheckpointError, match=f"config.json: {key} is missing, .*; add it to config.json") as caught:
        ids(raw)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=f"{key} is missing"):
        ids({**raw, "architectures": ["Unknown"], "vocab_size": 1 << 20, key: None})


def test_turn_ends_follow_the_end_of_text_once() -> None:
    raw = {"vocab_size": 300, "mask_token_id": 1}
    added = {"<|eot_id|>": 8, "<|im_end|>": 9}
    assert ids({**raw, "eos_token_id": [2, 9]}, {}, added)[1] == [2, 9, 8]
    assert ids({**raw, "eos_token_id": 8}, {}, {"<|eot_id|>": 8})[1] == 8


def loaded(directory: Path) -> tuple[Any, ...]:
    config = load_model(directory, torch.device("cpu"), torch.float32).config
    return config.mask_id, config.eos_ids, config.pad_id


def test_a_checkpoint_whose_config_names_none(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, config_of(**dict.fromkeys(KEYS)))
    with pytest.raises(CheckpointError, match="mask_token_id is missing"):
        loaded(directory)
    (directory / "generation_config.json").write_text(
        json.dumps({"mask_token_id": 5, "eos_token_id": 6, "pad_token_id": None}), encoding="utf-8"
    )
    assert loaded(directory) == (5, (6,), 6)
    (directory / "generation_config.json").write_text(json.dumps({"mask_token_id": None}), encoding="utf-8")
    write_tokenizer(directory)
    assert loaded(directory) == (MASK, (EOS, EOT), EOS)
    write_tokenizer(directory, None)
    assert loaded(directory) == (MASK, (EOS,), EOS)
    assert 256 + BASE_SPECIAL.index("<|mdm_mask|>") == MASK < VOCAB
    (directory / "generation_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"generation_config\.json: holds list, not an object"):
        loaded(directory)


@pytest.mark.parametrize("eos", [7, [1, 7]])
def test_a_mask_that_ends_the_text_is_refused(eos: Any) -> None:
    raw = {"vocab_size": 9, "mask_token_id": 7, "eos_token_id": eos, "architectures": ["Other"]}
    with pytest.raises(CheckpointError, match=r"mask_token_id=7 is also an end-of-text id \(eos_token_id="):
        complete_ids(raw, {}, {})
