"""Architectures, one file each (config mapping and weight names). A new file with `ARCHITECTURES`, `configure` and
`NAMES` adds one. Dispatch is on `architectures`, since `model_type` collides between families."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from dkv.checkpoints.config_fields import shown
from dkv.checkpoints.other_formats import read_config
from dkv.checkpoints.special_tokens import with_ids
from dkv.checkpoints.weights import Weights
from dkv.distributed.group import Team
from dkv.errors import CheckpointError, UnsupportedModelError
from dkv.layers.transformer import Transformer
from dkv.models.unsupported import REFUSED

__all__ = ["Transformer", "architecture_of", "known_architectures", "load_model", "named_architecture"]


def known_architectures() -> dict[str, ModuleType]:
    """The module of each supported entry of `architectures`."""
    modules = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    return {name: module for module in modules for name in getattr(module, "ARCHITECTURES", ())}


def load_model(
    directory: Path,
    device: torch.device,
    dtype: torch.dtype,
    team: Team | None = None,
    quantize: str | None = None,
    arrange: bool = True,
) -> Transformer:
    """Load a published-format directory: config.json and one or several safetensors files; with a team, this rank's
    share of it; quantize: as which of `dkv.layers.quantized.KINDS` to keep its weights; arrange: whether to lay out the
    others as the device's kernels have them (which torch.compile cannot read).

    Raises CheckpointError (missing, damaged, misshapen) and UnsupportedModelError (mathematics not implemented here),
    and SettingError where the model's heads cannot be shared out over the team, or its weights cannot be packed.
    """
    raw = read_config(directory)
    module = architecture_of(raw)
    config = module.configure(with_ids(raw, directory))
    with Weights(directory, device, dtype) as weights:
        model: Transformer = module.NAMES.build(config, weights, team, quantize, arrange)
    return model


def architecture_of(raw: dict[str, Any]) -> ModuleType:
    """The module that implements what a config.json asks for. Raises CheckpointError and UnsupportedModelError."""
    known, name = known_architectures(), named_architecture(raw)
    if name is None:
        given = raw.get("architectures")
        if isinstance(given, str):
            raise CheckpointError(
                f"config.json: architectures={shown(given)} must be a list of names; write [{given!r}]"
            )
        raise CheckpointError("config.json: architectures is missing; dkv needs it to tell model families apart")
    if name in REFUSED:
        raise UnsupportedModelError(f"config.json: architectures={name!r} is not supported: {REFUSED[name]}")
    if name not in known:
        raise UnsupportedModelError(f"config.json: architectures={name!r} is not supported; known: {', '.join(known)}")
    return known[name]


def named_architecture(raw: dict[str, Any]) -> str | None:
    """The first of `architectures`, else the class that `auto_map` names; its code is never fetched or run."""
    named, mapped = raw.get("architectures"), raw.get("auto_map")
    if isinstance(named, list) and named and isinstance(named[0], str):
        return named[0]
    classes = [mapped.get(key) for key in ("AutoModel", "AutoModelForCausalLM")] if isinstance(mapped, dict) else []
    return next((name.rpartition(".")[2] for name in classes if isinstance(name, str)), None)
