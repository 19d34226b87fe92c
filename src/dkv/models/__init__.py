"""Architectures, one file each: config mapping, parts of a block, weight names. A new file with what `Architecture`
lists adds one, and so does a module that an installed package offers in the entry-point group `dkv.models`. Dispatch is
on `architectures`, since `model_type` collides between families."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path
from typing import Any, Protocol

import torch

from dkv.checkpoints.config_fields import shown
from dkv.checkpoints.other_formats import read_config
from dkv.checkpoints.special_tokens import with_ids
from dkv.checkpoints.weights import Weights, check_room
from dkv.core.model import ModelConfig
from dkv.core.registry import loaded, offered
from dkv.distributed.group import Team
from dkv.errors import CheckpointError, SpecError, UnsupportedModelError
from dkv.layers.transformer import Transformer
from dkv.models.unsupported import REFUSED
from dkv.models.weight_map import WeightMap

__all__ = [
    "Architecture",
    "Transformer",
    "architecture_of",
    "known_architectures",
    "load_model",
    "named_architecture",
]


class Architecture(Protocol):
    """What the module of an architecture holds."""

    @property
    def ARCHITECTURES(self) -> tuple[str, ...]:  # noqa: N802 - a constant of the module
        """The entries of `architectures` in config.json that it implements."""
        ...

    def configure(self, raw: dict[str, Any], /) -> ModelConfig:
        """Read a config.json. Raises UnsupportedModelError and CheckpointError, naming the key."""
        ...

    def weight_map(self, config: ModelConfig, /) -> WeightMap:
        """The parts of the network, and the names of their weights."""
        ...


def known_architectures() -> dict[str, Architecture]:
    """The module of each supported entry of `architectures`: those of this package, then of installed ones.

    Raises SpecError where two claim one name, or a package's entry point is no such module.
    """
    own = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    found: dict[str, Architecture] = {n: module for module in own for n in getattr(module, "ARCHITECTURES", ())}
    for entry in offered("dkv.models", tuple(sys.path)):
        module = loaded(entry)
        if not all(hasattr(module, name) for name in ("ARCHITECTURES", "configure", "weight_map")):
            raise SpecError(
                f"entry point {entry.value!r} is no module with ARCHITECTURES, configure and weight_map; mend or "
                "uninstall that package"
            )
        for name in module.ARCHITECTURES:
            if found.setdefault(name, module) is not module:
                raise SpecError(f"entry point {entry.value!r} names {name!r}, which is known already; uninstall one")
    return found


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
    names = module.weight_map(module.configure(with_ids(raw, directory)))
    with Weights(directory, device, dtype) as weights:
        names.check(weights)
        check_room(names.nbytes(dtype.itemsize, quantize) // (1 if team is None else team.ranks), device)
        return names.build(weights, team, quantize, arrange)


def architecture_of(raw: dict[str, Any]) -> Architecture:
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
