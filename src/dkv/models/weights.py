"""Reading a published checkpoint directory: config fields and safetensors, lazily, with checked names and shapes.

Nothing is executed and nothing is unpickled: safetensors only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dkv.errors import CheckpointError

__all__ = ["Fields", "Weights", "read_json"]

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); is this a checkpoint directory?") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: is not valid JSON; fetch the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds {type(value).__name__}, not an object; fetch the file again")
    return value


@dataclass(frozen=True)
class Fields:
    """Typed reads of a config.json; every method raises CheckpointError naming the key."""

    raw: Mapping[str, Any]

    def size(self, key: str, default: int | None = None) -> int:
        """A positive int."""
        value = self.raw.get(key)
        value = default if value is None else value
        if type(value) is not int or not 0 < value < 1 << 31:
            raise CheckpointError(f"config.json: {key}={value!r} must be a positive whole number")
        return value

    def number(self, key: str, default: float) -> float:
        """A positive finite float."""
        value = self.raw.get(key)
        value = default if value is None else value
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise CheckpointError(f"config.json: {key}={value!r} must be a positive number")
        return float(value)

    def ids(self, key: str, vocab: int, default: int | None = None) -> tuple[int, ...]:
        """One token id or a list of them, each within the vocabulary."""
        value = self.raw.get(key)
        value = default if value is None else value
        listed = value if isinstance(value, list) else [value]
        if not listed or any(type(v) is not int or not 0 <= v < vocab for v in listed):
            raise CheckpointError(f"config.json: {key}={value!r} must be a token id below {vocab}")
        return tuple(listed)


class Weights:
    """The tensors of a directory's safetensors files, read one at a time straight to a device and dtype."""

    def __init__(self, directory: Path, device: torch.device | str, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._files = _shards(directory)

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor `name`, which must have `shape`. Raises CheckpointError."""
        return self._read(name, shape).to(device=self.device, dtype=self.dtype)

    def fuse(self, parts: Mapping[str, tuple[int, ...]]) -> Tensor:
        """Several tensors stacked along their first dimension, each copied once into its place."""
        rows = [shape[0] for shape in parts.values()]
        rest = next(iter(parts.values()))[1:]
        fused = torch.empty((sum(rows), *rest), device=self.device, dtype=self.dtype)
        first = 0
        for name, shape in parts.items():
            fused[first : first + shape[0]] = self._read(name, shape)
            first += shape[0]
        return fused

    def _read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        path = self._files.get(name)
        if path is None:
            raise CheckpointError(f"tensor {name!r} is missing from the checkpoint; fetch it again")
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path}: tensor {name!r} cannot be read ({_line(error)}); fetch it again") from None
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {list(tensor.shape)}, config.json asks {list(shape)}"
            )
        if tensor.dtype not in _FLOATS:
            raise CheckpointError(
                f"{path}: tensor {name!r} is stored as {tensor.dtype}; only plain floats are supported"
            )
        return tensor


def _shards(directory: Path) -> dict[str, Path]:
    """Which file holds each tensor. Raises CheckpointError."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        listed = read_json(index).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(f, str) for f in listed.values()):
            raise CheckpointError(f"{index}: has no weight_map of file names; fetch the file again")
        if any(Path(file).name != file for file in listed.values()):
            raise CheckpointError(f"{index}: names files outside its own directory; fetch the file again")
        files = sorted(set(listed.values()))
    else:
        files = sorted(path.name for path in directory.glob("*.safetensors"))
    if not files:
        pickled = any((*directory.glob("*.bin"), *directory.glob("*.pt"), *directory.glob("*.pth")))
        hint = (
            "only pickled weights, which dkv never loads; convert them to safetensors"
            if pickled
            else "no *.safetensors"
        )
        raise CheckpointError(f"{directory}: has {hint}")
    return {name: directory / file for file in files for name in _names(directory / file)}


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: is not a complete safetensors file ({_line(error)}); fetch it again") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
