"""Directories, files and repositories that are no checkpoint of ours: said by name, with what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import dkv
from dkv.checkpoints.hub import Hub
from dkv.errors import CheckpointError, HubError, UnsupportedModelError
from tests.support.checkpoints import CONFIG, write_checkpoint
from tests.support.cli_fixtures import Cli, cli, one_error
from tests.support.hub import REPO, fake_hub

__all__ = ["cli"]


def files(*names: str) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        for name in names:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(json.dumps(CONFIG).encode() if name == "config.json" else b"{}")

    return write


def adapter(directory: Path) -> None:
    (directory / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file({"a": torch.ones(1)}, directory / "adapter_model.safetensors")


OTHERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an adapter": (adapter, r"is an adapter \(adapter_config.json, as LoRA's\).*merge it into its base model"),
    "an adapter, pickled": (files("adapter_config.json", "adapter_model.bin"), "is an adapter"),
    "an adapter with a config": (files("adapter_config.json", "config.json"), "is an adapter"),
    "pickles": (
        files("config.json", "pytorch_model.bin"),
        "has only pickled weights, which dkv never loads; convert them to safetensors, with save_pretrained",
    ),
    "pickled shards": (
        files("config.json", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"),
        "has only pickled weights",
    ),
    "pt": (files("config.json", "model.pt"), "has only pickled weights"),
    "pickles without a config": (files("model.pth"), "has no config.json, but pickled weights, which dkv never loads"),
    "gguf": (files("model-q4.gguf"), "has no config.json, but GGUF files, which dkv does not read yet; give"),
    "gguf with a config": (files("config.json", "m.gguf"), "has only GGUF files, which dkv does not read yet"),
    "diffusers": (files("model_index.json", "unet/config.json"), "is a diffusers pipeline .*not a language model"),
    "onnx": (files("config.json", "model.onnx"), "has only ONNX files"),
    "flax": (files("config.json", "flax_model.msgpack"), "has only Flax weights"),
    "tensorflow": (files("config.json", "tf_model.h5"), "has only TensorFlow weights"),
    "a training run": (
        files("checkpoint-500/config.json", "trainer_state.json"),
        "config.json: cannot be read .*give one of its subdirectories: checkpoint-500",
    ),
    "nothing": (lambda d: None, "config.json: cannot be read .*; is this a checkpoint directory"),
    "a config alone": (files("config.json"), r"has no \*\.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_other_directories_are_said_by_name(kind: str, cli: Cli, tmp_path: Path) -> None:
    make, message = OTHERS[kind]
    (tmp_path / "model").mkdir()
    make(tmp_path / "model")
    with pytest.raises(CheckpointError, match=message) as caught:
        dkv.load(tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert one_error(cli("convert", str(tmp_path / "model"), str(tmp_path / "out")))
    assert one_error(cli("generate", "1", "--ids", "--model", str(tmp_path / "model")))


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("an adapter", UnsupportedModelError),
        ("pickles", CheckpointError),
        ("gguf", UnsupportedModelError),
        ("diffusers", UnsupportedModelError),
        ("nothing", HubError),
    ],
)
def test_so_are_repositories_and_nothing_of_them_is_fetched(
    kind: str, error: type[CheckpointError], tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    OTHERS[kind][0](tmp_path / "model")
    for directory in [p for p in (tmp_path / "model").iterdir() if p.is_dir()]:
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()
    with fake_hub(tmp_path / "model") as served:
        with pytest.raises(error, match=f"model='{REPO}'") as caught:
            Hub(served.endpoint, tmp_path / "hub").directory(REPO)
        assert "\n" not in str(caught.value)
        assert served.requests(f"GET /{REPO}/resolve") == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "no such directory, but a file; give the directory that holds it, '{}'"),
        ("config.json", "no such directory, but a file; give the directory that holds it, '{}'"),
        ("model.gguf", "no such directory, but a GGUF file, which dkv does not read yet"),
    ],
)
def test_a_file_is_answered_with_its_directory(name: str, message: str, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path)
    (directory / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError) as caught:
        dkv.load(directory / name)
    assert message.format(directory) in str(caught.value)


def test_a_link_to_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(CheckpointError, match="a link to gone, which does not exist"):
        dkv.load(tmp_path / "link")


def test_an_architecture_that_is_not_ours_is_answered_with_ours(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(UnsupportedModelError, match=r"'LlamaForCausalLM' is not supported; known: .*DreamModel.*LLaDA"):
        dkv.load(tmp_path)


def test_the_home_directory_is_understood_everywhere(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_checkpoint(tmp_path / "model")
    lm = dkv.load("~/model", device="cpu", dtype="float32")
    assert lm.directory == tmp_path / "model"
    assert dkv.load(Path("~/model"), device="cpu", dtype="float32").directory == tmp_path / "model"
    lm.save("~/saved")
    assert (tmp_path / "saved/model.safetensors").is_file()
    assert cli("inspect", "~/model").exit_code == 0
    assert cli("inspect", "~/model/config.json").exit_code == 0
    assert cli("convert", "~/model", "~/converted").exit_code == 0
    assert (tmp_path / "converted/model.safetensors").is_file()
    (tmp_path / "in.jsonl").write_text('{"prompt": [1, 2]}\n')
    done = cli(
        "generate", "--model=~/model", "--dtype", "float32", "--input=~/in.jsonl", "--output=~/out.jsonl",
        "--gen-length", "4",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out.jsonl").is_file()
