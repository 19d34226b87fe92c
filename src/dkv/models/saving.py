"""Saving in the published format, from a loaded model or from directory to directory: cast, re-sharded, all or nothing.

What is written: the weights under their published names, config.json as it was but for the dtype, and copies of the
tokenizer's and template's files. Code is never copied.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from dkv.checkpoints.other_formats import read_config
from dkv.checkpoints.safetensors_writer import Planned, write_shards
from dkv.checkpoints.special_tokens import with_ids
from dkv.checkpoints.weights import Weights
from dkv.layers.transformer import Transformer
from dkv.models import architecture_of
from dkv.storage.atomic import new_directory
from dkv.storage.regular_file import open_file
from dkv.tokenizer import TOKENIZER_FILES

__all__ = ["convert", "save"]

_COPIED = ("generation_config.json", *TOKENIZER_FILES, "LICENSE*")
_HEADROOM = 1 << 20  # for config, tokenizer and headers


def save(model: Transformer, source: Path, destination: Path, dtype: torch.dtype | None, most: int) -> None:
    """Write a loaded model, whose config and tokenizer are in `source`. dtype None = the model's; most: bytes a shard.

    Raises SettingError for a destination that is in use, CheckpointError for what cannot be read or written.
    """
    names = architecture_of(read_config(source)).weight_map(model.config)
    tensors = {
        name: Planned(tuple(tensor.shape), dtype or tensor.dtype, partial(_same, tensor))
        for name, tensor in names.tensors(model)
    }
    _write(source, destination, tensors, most)


def convert(source: Path, destination: Path, dtype: torch.dtype | None, most: int) -> None:
    """Write what is in `source` anew without loading it: one tensor is in memory at a time. dtype None = as stored.

    Raises as `save` does, and UnsupportedModelError.
    """
    raw = read_config(source)
    module = architecture_of(raw)
    names = module.weight_map(module.configure(with_ids(raw, source)))
    wanted = dict(names.shapes())
    with Weights(source, "cpu", dtype or torch.float32) as weights:
        names.check(weights)
        tensors = {
            name: Planned(shape, dtype or weights.view(name).dtype, partial(weights.view, name))
            for name, shape in wanted.items()
        }
        _write(source, destination, tensors, most)


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _write(source: Path, destination: Path, tensors: Mapping[str, Planned], most: int) -> None:
    needed = sum(tensor.nbytes for tensor in tensors.values()) + _HEADROOM
    with new_directory(destination, needed) as part:
        write_shards(part, tensors, most)
        raw = read_config(source)
        dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}
        if len(dtypes) == 1:  # a checkpoint of several dtypes says of itself what it said before
            raw |= dict.fromkeys(("torch_dtype", *({"dtype"} & raw.keys())), dtypes.pop())
        (part / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
        for pattern in _COPIED:
            for file in source.glob(pattern):
                if not file.is_dir():
                    _copy(file, part / file.relative_to(source))


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(exist_ok=True)
    with open_file(source) as file, destination.open("wb") as out:
        shutil.copyfileobj(file, out)
