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

from dkv.checkpoints.config_fields import read_json
from dkv.checkpoints.hub import Hub, Peeked, is_hub_id
from dkv.checkpoints.other_formats import read_config
from dkv.checkpoints.safetensors_header import Stored, problems_of, read_headers, unknown_tensors
from dkv.checkpoints.special_tokens import complete_ids, with_ids
from dkv.checkpoints.weight_files import INDEX, find_files
from dkv.core.dtypes import DTYPES
from dkv.core.model import ModelConfig
from dkv.errors import CheckpointError, SettingError, UnsupportedModelError
from dkv.layers.quantized import check_kind
from dkv.loading import find_model
from dkv.models import architecture_of, named_architecture
from dkv.storage.regular_file import exists
from dkv.tokenizer import load_tokenizer

__all__ = ["MemoryQuestion", "facts_of"]

_MOST_PROBLEMS = 10


@dataclass(frozen=True)
class MemoryQuestion:
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


def facts_of(model: str, length: MemoryQuestion) -> dict[str, Any]:
    """Everything that is printed; what dkv cannot run is a fact too. Raises CheckpointError for damaged files."""
    raw, found = _source(model)
    directory = None if found is None else found.directory
    stored = {} if found is None else found.stored
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
        facts["problems"] = [] if found is None else _problems(config, module, found)
        facts["unsupported"] = _unsupported(config, module, stored)
    files = None if found is None else found.files
    return {
        **facts,
        "weights": _weights(stored),
        "ignored": [] if files is None else list(files.ignored),
        "chosen_by": None if files is None else files.chosen_by,
        **_of_tokenizer(directory),
    }


def _source(model: str) -> tuple[dict[str, Any], Peeked | None]:
    """The content of config.json, and what else there is; None where only a config was given."""
    if is_hub_id(model):
        found = Hub().peek(model)
        return read_config(found.directory), found
    path = Path(model).expanduser()
    if path.is_file() and path.suffix not in (".safetensors", ".gguf", ".bin", ".pt", ".pth"):
        return read_json(path), None
    directory = find_model(model)
    raw = read_config(directory)
    try:
        files = find_files(directory)
    except CheckpointError as error:
        if any(name.suffix == ".safetensors" for name in directory.iterdir()) or exists(directory / INDEX):
            raise
        return raw, Peeked(directory, {}, None, str(error))
    return raw, Peeked(directory, read_headers(directory), files, None)


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


def _problems(c: ModelConfig, module: ModuleType, source: Peeked) -> list[str]:
    """What is missing or misshapen."""
    if source.problem is not None:
        return [source.problem]
    found = list(islice(problems_of(source.stored, module.NAMES.shapes(c)), _MOST_PROBLEMS + 1))
    return found if len(found) <= _MOST_PROBLEMS else [*found[:_MOST_PROBLEMS], "and more"]


def _unsupported(c: ModelConfig, module: ModuleType, stored: Mapping[str, Stored]) -> list[str]:
    """What the weights hold that the model of the config does not have. (A tied head is compared when it is loaded.)"""
    names = module.NAMES
    known = {*islice((name for name, _ in names.shapes(c)), len(stored) + 1), *((names.head,) if c.tied else ())}
    line = unknown_tensors(stored, known)
    return [] if line is None else [line]


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
    if tokenizer is None:
        return {"tokenizer": False, "template": False, "chat_format": None, "chat_note": None}
    return {
        "tokenizer": True,
        "template": tokenizer.has_template,
        "chat_format": tokenizer.chat_format,
        "chat_note": tokenizer.chat_note,
    }


def _dtype(raw: Mapping[str, Any], stored: Mapping[str, Stored]) -> torch.dtype:
    """That of most of the weights, else what the config says, else bfloat16."""
    numbers = (_weights(stored) or {}).get("dtypes") or {}
    spelled = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    most = spelled.get(max(numbers, key=lambda name: int(numbers[name]), default=""))
    named = most or raw.get("torch_dtype") or raw.get("dtype")
    return DTYPES.get(named, torch.bfloat16) if isinstance(named, str) else torch.bfloat16


def _memory(c: ModelConfig, module: ModuleType, length: MemoryQuestion, dtype: torch.dtype) -> dict[str, Any]:
    """Bytes of the weights and of each cache; caches whose keys have no defaults are left out."""
    from dkv.caches import known_caches
    from dkv.core.cache_size import cache_bytes

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
