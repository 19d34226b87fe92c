"""What `dkv inspect` knows of a model, gathered from config.json, tokenizer files and safetensors headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from dkv.dtypes import DTYPES
from dkv.errors import CheckpointError, SettingError, UnsupportedModelError
from dkv.loading import find_model
from dkv.model import ModelConfig
from dkv.models import architecture_of, named_architecture
from dkv.models.fields import read_json
from dkv.models.headers import Stored, problems_of, read_headers
from dkv.models.hub import Hub, is_hub_id
from dkv.models.ids import complete_ids, with_ids
from dkv.models.quantized import check_kind
from dkv.tokens import load_tokenizer

__all__ = ["Length", "facts_of"]

_MOST_PROBLEMS = 10


@dataclass(frozen=True)
class Length:
    """What to reckon the memory for. dtype None = as stored; quantize: as `load` takes it. Raises SettingError."""

    prompt: int
    gen: int
    batch: int
    dtype: torch.dtype | None
    quantize: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("prompt_length", self.prompt), ("gen_length", self.gen), ("batch", self.batch)):
            if value < 1:
                raise SettingError(f"{name}={value} must be a whole number of at least 1")
        check_kind(self.quantize)


def facts_of(model: str, length: Length) -> dict[str, Any]:
    """Everything that is printed; what dkv cannot run is a fact too. Raises CheckpointError for damaged files."""
    raw, directory, stored = _source(model)
    facts: dict[str, Any] = {"model": model, "architecture": named_architecture(raw), "unsupported": []}
    try:
        module = architecture_of(raw)
        ids = complete_ids(raw, {}, {}) if directory is None else with_ids(raw, directory)
        config: ModelConfig = module.configure(ids)
    except UnsupportedModelError as error:
        facts["unsupported"] = [str(error)]
    else:
        facts |= _of_config(config, module)
        facts["memory"] = _memory(config, module, length, length.dtype or _dtype(raw, stored))
        facts["problems"] = _problems(config, module, directory, stored)
    return {**facts, "weights": _weights(stored), **_of_tokenizer(directory)}


def _source(model: str) -> tuple[dict[str, Any], Path | None, Mapping[str, Stored]]:
    """config.json; the directory if there is more than that; the tensors' headers, if there are any."""
    if is_hub_id(model):
        directory, stored = Hub().peek(model)
        return read_json(directory / "config.json"), directory, stored
    if Path(model).is_file():
        return read_json(Path(model)), None, {}
    directory = find_model(model)
    there = any((*directory.glob("*.safetensors"), *directory.glob("*.safetensors.index.json")))
    return read_json(directory / "config.json"), directory, read_headers(directory) if there else {}


def _of_config(c: ModelConfig, module: ModuleType) -> dict[str, Any]:
    sizes = ("layers", "width", "heads", "kv_heads", "head_dim", "mlp_width", "vocab", "context")
    return {
        "family": c.family,
        "sizes": {name: getattr(c, name) for name in sizes},
        "parameters": module.NAMES.parameters(c),
        "rope_theta": c.rope_theta,
        "norm_eps": c.norm_eps,
        "tied": c.tied,
        "shift": c.shift,
        "decoder": c.default_decoder,
        "ids": {"mask": c.mask_id, "eos": list(c.eos_ids), "pad": c.pad_id},
    }


def _problems(c: ModelConfig, module: ModuleType, directory: Path | None, stored: Mapping[str, Stored]) -> list[str]:
    """What is missing or misshapen; nothing where only a config was given."""
    if directory is None:
        return []
    if not stored:
        try:
            read_headers(directory)
        except CheckpointError as error:
            return [str(error)]
    found = list(islice(problems_of(stored, module.NAMES.shapes(c)), _MOST_PROBLEMS + 1))
    return found if len(found) <= _MOST_PROBLEMS else [*found[:_MOST_PROBLEMS], "and more"]


def _weights(stored: Mapping[str, Stored]) -> dict[str, Any] | None:
    if not stored:
        return None
    numbers: Counter[str] = Counter()
    for tensor in stored.values():
        numbers[tensor.dtype] += tensor.size
    files = {tensor.path for tensor in stored.values()}
    return {"files": len(files), "tensors": len(stored), "parameters": numbers.total(), "dtypes": dict(numbers)}


def _of_tokenizer(directory: Path | None) -> dict[str, Any]:
    tokenizer = None if directory is None else load_tokenizer(directory)
    return {"tokenizer": tokenizer is not None, "template": tokenizer is not None and tokenizer.has_template}


def _dtype(raw: Mapping[str, Any], stored: Mapping[str, Stored]) -> torch.dtype:
    """That of most of the weights, else what the config says, else bfloat16."""
    numbers = (_weights(stored) or {}).get("dtypes") or {}
    spelled = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    most = spelled.get(max(numbers, key=lambda name: int(numbers[name]), default=""))
    named = most or raw.get("torch_dtype") or raw.get("dtype")
    return DTYPES.get(named, torch.bfloat16) if isinstance(named, str) else torch.bfloat16


def _memory(c: ModelConfig, module: ModuleType, length: Length, dtype: torch.dtype) -> dict[str, Any]:
    """Bytes of the weights and of each cache; caches whose keys have no defaults are left out."""
    from dkv.caches import known_caches
    from dkv.footprint import cache_bytes

    slots = length.batch * (length.prompt + length.gen + 1)
    caches: dict[str, int] = {}
    for name, kind in known_caches().items():
        try:
            policy = kind()
        except TypeError:
            continue
        # Bytes go with the slots; multiplied here, where no length or batch is too large to count.
        caches[name] = cache_bytes(c, policy, 1, 1, 1, dtype) // 3 * slots
    return {
        "prompt_length": length.prompt,
        "gen_length": length.gen,
        "batch": length.batch,
        "dtype": str(dtype).removeprefix("torch."),
        "quantize": length.quantize,
        "fits_context": length.prompt + length.gen <= c.context,
        "weights": module.NAMES.nbytes(c, dtype.itemsize, length.quantize),
        "caches": caches,
    }
