"""Loading: what is damaged, missing or dangerous in a checkpoint directory is named in one line, with the fix."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import dkv
from dkv.errors import CheckpointError, UnsupportedModelError
from tests.support.checkpoints import CONFIG, config_of, tensors_of, write_checkpoint, write_tokenizer

NORM = "model.transformer.blocks.1.ff_norm.weight"
FUSED = "model.transformer.blocks.0.k_proj.weight"


def edit_tensors(directory: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def write_config(directory: Path, text: str) -> None:
    (directory / "config.json").write_text(text, encoding="utf-8")


def nest_config(directory: Path) -> None:
    (directory / "config.json").unlink()
    (directory / "config.json").mkdir()


def truncate(directory: Path, keep: float) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])


def only_pickle(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": 1}))


def index_of(directory: Path, content: object) -> None:
    """An index in place of the single file, which would come before it."""
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")


def point_outside(directory: Path) -> None:
    save_file(tensors_of(CONFIG), directory.parent / "outside.safetensors")
    index_of(directory, {"weight_map": {NORM: "../outside.safetensors"}})


def damage_index(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model-00001-of-00001.safetensors")
    (directory / "model.safetensors.index.json").write_text("{")


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), "config.json: cannot be read .*checkpoint directory"),
    "config is a directory": (nest_config, "cannot be read"),
    "config is not JSON": (lambda d: write_config(d, "{'a': 1}"), "not valid JSON"),
    "config is not text": (lambda d: (d / "config.json").write_bytes(b"\xff\xfe\x00"), "not valid JSON"),
    "config is deep": (lambda d: write_config(d, "[" * 100000), "not valid JSON"),
    "config is a list": (lambda d: write_config(d, "[1]"), "holds list, not an object"),
    "no architectures": (lambda d: write_config(d, "{}"), "architectures is missing"),
    "architectures is a name": (
        lambda d: write_config(d, '{"architectures": "LLaDAModelLM"}'),
        "architectures='LLaDAModelLM' must be a list of names",
    ),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), r"no \*.safetensors"),
    "pickle only": (only_pickle, "only pickled weights, which dkv never loads; convert"),
    "truncated": (lambda d: truncate(d, 0.6), "model.safetensors: is not a complete safetensors file .*fetch it again"),
    "truncated in the header": (lambda d: truncate(d, 0.001), "is not a complete safetensors file"),
    "empty": (lambda d: truncate(d, 0), "is not a complete safetensors file"),
    "tensor missing": (lambda d: edit_tensors(d, lambda t: t.pop(NORM)), f"'{NORM}' is missing"),
    "fused tensor missing": (lambda d: edit_tensors(d, lambda t: t.pop(FUSED)), f"'{FUSED}' is missing"),
    "wrong shape": (
        lambda d: edit_tensors(d, lambda t: t.update({NORM: torch.ones(31)})),
        f"'{NORM}' has shape .31., config.json asks .32.",
    ),
    "wrong shape of a fused tensor": (
        lambda d: edit_tensors(d, lambda t: t.update({FUSED: torch.ones(32, 16)})),
        f"'{FUSED}' has shape .32, 16.",
    ),
    "wrong rank": (lambda d: edit_tensors(d, lambda t: t.update({NORM: torch.ones(32, 1)})), "has shape .32, 1."),
    "integers": (
        lambda d: edit_tensors(d, lambda t: t.update({NORM: torch.ones(32, dtype=torch.int8)})),
        f"'{NORM}' is stored as I8; only plain floats",
    ),
    "integers in a fused tensor": (
        lambda d: edit_tensors(d, lambda t: t.update({FUSED: torch.ones(32, 32, dtype=torch.int32)})),
        "only plain floats",
    ),
    "index outside": (point_outside, "names files outside its own directory"),
    "index absolute": (lambda d: index_of(d, {"weight_map": {NORM: "/etc/passwd"}}), "outside its own directory"),
    "index of the parent": (lambda d: index_of(d, {"weight_map": {NORM: ".."}}), "."),
    "index without a map": (lambda d: index_of(d, {"metadata": {}}), "has no weight_map"),
    "index of numbers": (lambda d: index_of(d, {"weight_map": {NORM: 3}}), "has no weight_map"),
    "index of an absent file": (lambda d: index_of(d, {"weight_map": {NORM: "gone.safetensors"}}), "gone.safetensors"),
    "index is not JSON": (damage_index, "not valid JSON"),
    "damaged tokenizer": (
        lambda d: (d / "tokenizer.json").write_text("{}"),
        "tokenizer.json: is not a usable tokenizer",
    ),
    "tokenizer is not JSON": (lambda d: (d / "tokenizer.json").write_text("{"), "tokenizer.json: is not valid JSON"),
    "tokenizer settings": (lambda d: (d / "tokenizer_config.json").write_text("[]"), "does not hold an object"),
    "tokenizer settings are not JSON": (lambda d: (d / "tokenizer_config.json").write_text("{"), "tokenizer"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(damage: str, tmp_path: Path) -> None:
    directory = write_tokenizer(write_checkpoint(tmp_path / "model"))
    change, message = DAMAGE[damage]
    change(directory)
    with pytest.raises(CheckpointError, match=message) as caught:
        dkv.load(directory, device="cpu", dtype="float32")
    assert "\n" not in str(caught.value)


def test_a_broken_template_is_named_where_a_chat_is_asked_for(tmp_path: Path) -> None:
    directory = write_tokenizer(write_checkpoint(tmp_path / "model"))
    (directory / "chat_template.jinja").write_text("{% if %}")
    lm = dkv.load(directory, device="cpu", dtype="float32")
    prompts: list[str | list[int]] = ["a", [1, 2]]
    for prompt in prompts:
        assert len(lm.generate(prompt, gen_length=2, chat=False)) == 1
    with pytest.raises(CheckpointError, match=r"chat_template.jinja: the chat template is not usable .* chat=False"):
        lm.generate("a", gen_length=2)


@pytest.mark.parametrize("name", ["absent", "a\x00b", ""])
def test_a_missing_directory_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        dkv.load(str(tmp_path / name) if name else name)


def test_a_missing_directory_says_what_to_give() -> None:
    with pytest.raises(CheckpointError, match=r"model='\./no/such': no such directory; give 'tiny', a checkpoint"):
        dkv.load("./no/such")


def test_a_file_is_not_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="no such directory"):
        dkv.load(tmp_path / "file")


def test_unknown_architectures_list_the_known_ones(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, config_of(architectures=["LlamaForCausalLM"]), tensors_of(CONFIG))
    with pytest.raises(UnsupportedModelError, match=r"'LlamaForCausalLM' is not supported; known: .*LLaDAModelLM"):
        dkv.load(directory)


def test_shards_load_as_one_file_does(tmp_path: Path, bare_lm: dkv.DiffusionLM) -> None:
    sharded = dkv.load(write_checkpoint(tmp_path, shards=3), device="cpu", dtype="float32")
    (one,), (other,) = (lm.generate([[1, 2, 3]], gen_length=8, stop_at_eos=False) for lm in (sharded, bare_lm))
    assert one.token_ids == other.token_ids


def test_other_float_dtypes_on_disk(tmp_path: Path, bare_lm: dkv.DiffusionLM) -> None:
    """The weights are what the file says, whatever it is stored as."""
    halves = {name: tensor.bfloat16() for name, tensor in tensors_of(CONFIG).items()}
    exact = {name: tensor.float() for name, tensor in halves.items()}
    lms = [
        dkv.load(write_checkpoint(tmp_path / str(n), tensors=t), device="cpu", dtype="float32")
        for n, t in enumerate((halves, exact))
    ]
    assert lms[0].model.dtype == torch.float32
    one, other = (lm.generate([[4, 5]], gen_length=8, stop_at_eos=False)[0].token_ids for lm in lms)
    assert one == other


def test_a_pickle_beside_safetensors_is_ignored(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path)
    (directory / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert dkv.load(directory, device="cpu", dtype="float32").tokenizer is None
