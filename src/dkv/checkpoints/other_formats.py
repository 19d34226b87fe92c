"""What a directory or a repository without a readable checkpoint holds instead: said by name, with what to do."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from dkv.checkpoints.config_fields import read_json
from dkv.errors import CheckpointError, UnsupportedModelError
from dkv.storage.regular_file import exists

__all__ = ["ADAPTER", "ADAPTER_WEIGHTS", "missing_config", "no_weights", "read_config", "refuse_adapter"]

ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".distcp")
_OTHERS = {
    ".gguf": "GGUF files, which dkv does not read yet",
    ".onnx": "ONNX files",
    ".h5": "TensorFlow weights",
    ".msgpack": "Flax weights",
    ".npz": "NumPy weights",
}


def read_config(directory: Path) -> dict[str, Any]:
    """The content of a directory's config.json. Raises CheckpointError, naming what the directory holds instead."""
    path = directory / "config.json"
    if not exists(path):
        names = _names(directory)
        below = [n for n in names if exists(directory / n / "config.json")]
        raise missing_config(str(path), str(directory), names, below)
    return read_json(path)


def missing_config(path: str, place: str, names: Collection[str], below: Collection[str] = ()) -> CheckpointError:
    """The error for `place`, whose files are `names` and whose config.json, `path`, is not there; below: those of its
    subdirectories that have one."""
    if ADAPTER in names:
        return refuse_adapter(place)
    if "model_index.json" in names:
        return UnsupportedModelError(
            f"{place}: is a diffusers pipeline (model_index.json), not a language model; give one's checkpoint"
        )
    found = _other_than_safetensors(names)
    if found and not any(name.endswith(".safetensors") for name in names):
        return UnsupportedModelError(f"{place}: has no config.json, but {found}; give a checkpoint in safetensors")
    hint = (
        f"give one of its subdirectories: {', '.join(sorted(below)[:5])}"
        if below
        else "is this a checkpoint directory?"
    )
    return CheckpointError(f"{path}: cannot be read (No such file or directory); {hint}")


def refuse_adapter(place: str) -> UnsupportedModelError:
    """The error for an adapter without its base model."""
    return UnsupportedModelError(
        f"{place}: is an adapter ({ADAPTER}, as LoRA's), which dkv does not apply; merge it into its base model "
        "(peft's merge_and_unload), save that with save_pretrained and load the result"
    )


def no_weights(place: str, names: Collection[str]) -> CheckpointError:
    """The error for a place without safetensors files."""
    if any(name.endswith(_PICKLED) for name in names):
        return CheckpointError(
            f"{place}: has only pickled weights, which dkv never loads; convert them to safetensors, with "
            "save_pretrained of the program that wrote them or the hub's space safetensors/convert"
        )
    found = _other_than_safetensors(names)
    if found:
        return UnsupportedModelError(f"{place}: has only {found}; give a checkpoint in safetensors")
    return CheckpointError(f"{place}: has no *.safetensors")


def _other_than_safetensors(names: Collection[str]) -> str | None:
    if any(name.endswith(_PICKLED) for name in names):
        return "pickled weights, which dkv never loads"
    return next((what for end, what in _OTHERS.items() if any(name.endswith(end) for name in names)), None)


def _names(directory: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except OSError:
        return []
