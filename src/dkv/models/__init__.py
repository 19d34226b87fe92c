"""Architectures, one file each (config mapping and weight names). A new file with `ARCHITECTURES`, `configure` and
`build` adds one. Dispatch is on `architectures`, since `model_type` collides between families."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from dkv.errors import CheckpointError, UnsupportedModelError
from dkv.models.ids import with_ids
from dkv.models.layers import Transformer
from dkv.models.weights import Weights, read_json

__all__ = ["Transformer", "known_architectures", "load_model"]


def known_architectures() -> dict[str, ModuleType]:
    """The module of each supported entry of `architectures`."""
    modules = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    return {name: module for module in modules for name in getattr(module, "ARCHITECTURES", ())}


def load_model(directory: Path, device: torch.device, dtype: torch.dtype) -> Transformer:
    """Load a published-format directory: config.json and one or several safetensors files.

    Raises CheckpointError (missing, damaged, misshapen) and UnsupportedModelError (mathematics not implemented here).
    """
    if not directory.is_dir():
        raise CheckpointError(f"model={str(directory)!r}: no such directory; give 'tiny' or a checkpoint directory")
    raw = read_json(directory / "config.json")
    module = _dispatch(raw)
    config = module.configure(with_ids(raw, directory))
    model: Transformer = module.build(config, Weights(directory, device, dtype))
    return model


def _dispatch(raw: dict[str, Any]) -> ModuleType:
    known, named = known_architectures(), raw.get("architectures")
    if not isinstance(named, list) or not named:
        raise CheckpointError("config.json: architectures is missing; dkv needs it to tell model families apart")
    if named[0] not in known:
        raise UnsupportedModelError(
            f"config.json: architectures={named[0]!r} is not supported; known: {', '.join(known)}"
        )
    return known[named[0]]
