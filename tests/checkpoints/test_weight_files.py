"""Which files are the model: the same choice when loading, inspecting, converting, fetching and fingerprinting."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import dkv
from dkv.checkpoints.weight_files import INDEX, SINGLE, choose_files, find_files, fingerprint
from dkv.errors import CheckpointError, UnsupportedModelError
from dkv.models import Transformer
from dkv.models.saving import convert
from tests.support.checkpoints import CONFIG, tensors_of, write_checkpoint
from tests.support.cli_fixtures import Cli, cli, one_error

__all__ = ["cli"]

EMBEDDING = "model.transformer.wte.weight"


def weights_of(lm: dkv.DiffusionLM) -> torch.Tensor:
    assert isinstance(lm.network, Transformer)
    return lm.network.embedding


def load(directory: Path) -> dkv.DiffusionLM:
    return dkv.load(directory, device="cpu", dtype="float32")


def other_shards(directory: Path, shards: int = 2, seed: int = 7) -> None:
    """Another model's shards, without its index."""
    other = write_checkpoint(directory.parent / "other", seed=seed, shards=shards)
    for file in other.glob("*.safetensors"):
        shutil.copy(file, directory / file.name)


BESIDE: dict[str, Callable[[Path], Any]] = {
    "averaged weights": lambda d: save_file(tensors_of(CONFIG, 7), d / "model_ema.safetensors"),
    "a backup": lambda d: save_file(tensors_of(CONFIG, 7), d / "model.old.safetensors"),
    "what sorts last": lambda d: save_file(tensors_of(CONFIG, 7), d / "zzz.safetensors"),
    "an optimizer": lambda d: save_file({"exp_avg": torch.ones(3)}, d / "optimizer.safetensors"),
    "consolidated weights": lambda d: save_file(tensors_of(CONFIG, 7), d / "consolidated.safetensors"),
    "what is no safetensors file": lambda d: (d / "model.bak.safetensors").write_bytes(b"no"),
    "shards of before": other_shards,
    "an index of before": lambda d: (d / INDEX).write_text(json.dumps({"weight_map": {EMBEDDING: "gone.safetensors"}})),
    "a damaged index": lambda d: (d / INDEX).write_text("{"),
}


@pytest.mark.parametrize("beside", BESIDE)
def test_the_single_file_alone_is_the_model(beside: str, cli: Cli, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model")
    digest = fingerprint(directory)
    BESIDE[beside](directory)
    assert torch.equal(weights_of(load(directory)), tensors_of(CONFIG)[EMBEDDING])
    assert fingerprint(directory) == digest
    convert(directory, tmp_path / "out", None, 10**9)
    assert torch.equal(load_file(tmp_path / "out" / SINGLE)[EMBEDDING], tensors_of(CONFIG)[EMBEDDING])
    shown = cli("inspect", str(directory))
    assert shown.exit_code == 0
    assert f"; the model is in {SINGLE}\n" in shown.stdout
    facts = json.loads(cli("inspect", str(directory), "--json").stdout)
    assert set(facts["ignored"]) == {p.name for p in directory.iterdir()} - {"config.json", SINGLE}


def test_the_newer_single_file_wins_over_an_index_and_its_shards(tmp_path: Path) -> None:
    """What is left where a program saves a smaller model into the directory of a sharded one."""
    directory = write_checkpoint(tmp_path / "model", seed=7, shards=2)
    write_checkpoint(directory, seed=0)
    assert torch.equal(weights_of(load(directory)), tensors_of(CONFIG)[EMBEDDING])


def test_what_the_index_lists_is_the_model(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model", shards=2)
    save_file(tensors_of(CONFIG, 7), directory / "model_ema.safetensors")
    other_shards(directory, shards=3)
    assert torch.equal(weights_of(load(directory)), tensors_of(CONFIG)[EMBEDDING])
    assert find_files(directory).ignored == (
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model_ema.safetensors",
    )


def test_numbered_shards_without_an_index_are_the_model_if_none_is_missing(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model", shards=3)
    (directory / INDEX).unlink()
    save_file(tensors_of(CONFIG, 7), directory / "ema.safetensors")
    other = write_checkpoint(tmp_path / "other", seed=7, shards=2)
    for number in (1, 2):
        shutil.copy(
            other / f"model-0000{number}-of-00002.safetensors", directory / f"ema-0000{number}-of-00002.safetensors"
        )
    assert torch.equal(weights_of(load(directory)), tensors_of(CONFIG)[EMBEDDING])
    (directory / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors is missing, and so is"):
        load(directory)


def test_two_shardings_without_an_index_are_told_apart_by_nobody(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model", shards=3)
    (directory / INDEX).unlink()
    other_shards(directory)
    with pytest.raises(CheckpointError, match=r"model-\*-of-00002.* and model-\*-of-00003.*remove one"):
        load(directory)


def test_a_tensor_in_two_files_is_an_error_that_names_both(tmp_path: Path, cli: Cli) -> None:
    directory = write_checkpoint(tmp_path / "model")
    (directory / SINGLE).rename(directory / "a.safetensors")
    shutil.copy(directory / "a.safetensors", directory / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"is in .*a\.safetensors and in .*b\.safetensors; remove"):
        load(directory)
    with pytest.raises(CheckpointError, match=r"a\.safetensors and in"):
        convert(directory, tmp_path / "out", None, 10**9)
    assert "b.safetensors" in one_error(cli("inspect", str(directory)))


def edit_map(directory: Path, change: Callable[[dict[str, str]], Any]) -> None:
    index = json.loads((directory / INDEX).read_text())
    change(index["weight_map"])
    (directory / INDEX).write_text(json.dumps(index))


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
LIES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a file that is not there": (
        lambda d: (d / SECOND).unlink(),
        f"{SECOND} is missing, which {INDEX} names; fetch it",
    ),
    "a file that is nowhere": (
        lambda d: edit_map(d, lambda m: m.update({EMBEDDING: "gone.safetensors"})),
        "gone.safetensors is missing",
    ),
    "a file above": (
        lambda d: edit_map(d, lambda m: m.update({EMBEDDING: "../x.safetensors"})),
        r"outside its own directory \('\.\./x",
    ),
    "the directory itself": (lambda d: edit_map(d, lambda m: m.update({EMBEDDING: ""})), "outside its own directory"),
    "the directory above": (lambda d: edit_map(d, lambda m: m.update({EMBEDDING: ".."})), "outside its own directory"),
    "a pickle": (
        lambda d: edit_map(d, lambda m: m.update({EMBEDDING: "pytorch_model.bin"})),
        "which is no safetensors file",
    ),
    "the other file": (
        lambda d: edit_map(d, lambda m: m.update({EMBEDDING: SECOND})),
        f"says that {SECOND} holds '{EMBEDDING}', which is in {FIRST}",
    ),
    "a tensor that is nowhere": (
        lambda d: edit_map(d, lambda m: m.update({"x.weight": FIRST})),
        f"says that {FIRST} holds 'x.weight', which it does not",
    ),
    "one tensor less": (lambda d: edit_map(d, lambda m: m.pop(EMBEDDING)), f"does not list '{EMBEDDING}'"),
    "nothing": (lambda d: edit_map(d, lambda m: m.clear()), "has no weight_map"),
    "one tensor twice": (
        lambda d: (d / INDEX).write_text('{"weight_map": {"a": "b.safetensors", "a": "c.safetensors"}}'),
        "names the key 'a' twice",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_index_that_disagrees_with_the_files_is_an_error(lie: str, tmp_path: Path, cli: Cli) -> None:
    directory = write_checkpoint(tmp_path / "model", shards=2)
    change, message = LIES[lie]
    change(directory)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(directory)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=message):
        convert(directory, tmp_path / "out", None, 10**9)
    assert one_error(cli("inspect", str(directory)))
    assert not (tmp_path / "out").exists()


def test_an_adapter_beside_its_base_is_not_left_out_silently(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model")
    (directory / "adapter_config.json").write_text("{}")
    assert load(directory)  # a leftover without weights changes nothing
    save_file({"a": torch.ones(1)}, directory / "adapter_model.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"is an adapter .*merge it into its base model"):
        load(directory)


NAMES = st.sampled_from(
    [SINGLE, INDEX, "model_ema.safetensors", "optimizer.safetensors", "pytorch_model.bin", "config.json", FIRST, SECOND,
     "model-00001-of-00003.safetensors", "ema-00001-of-00001.safetensors", "x.gguf", "adapter_config.json"]
)  # fmt: skip


@given(st.sets(NAMES))
def test_any_set_of_names_gives_files_among_them_or_one_line(names: set[str]) -> None:
    weight_map = {"a": FIRST, "b": SECOND}
    try:
        chosen = choose_files("here", names, lambda: {"weight_map": weight_map})
    except CheckpointError as error:
        line = str(error)
    else:
        line = ""
        assert set(chosen.files) <= names
        assert not set(chosen.files) & set(chosen.ignored)
        assert (chosen.files == (SINGLE,)) == (SINGLE in names)
        assert chosen == choose_files("here", sorted(names), lambda: {"weight_map": weight_map})
    assert "\n" not in line
    assert not (line and SINGLE in names)
