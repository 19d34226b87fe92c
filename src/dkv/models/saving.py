"""Saving in the published format, from a loaded model or from directory to directory: cast, re-sharded, all or nothing.

What is written: the weights under their published names, config.json as it was but for the dtype, and copies of the
tokenizer's and template's files. Code is never copied.
"""

from __future__ import annotations

import errno
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from dkv.errors import CheckpointError, SettingError
from dkv.models import architecture_of
from dkv.models.fields import read_json
from dkv.models.layers import Transformer
from dkv.models.shards import Planned, write_shards
from dkv.models.weights import Weights

__all__ = ["convert", "save"]

_COPIED = ("generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json",
           "merges.txt", "chat_template.jinja", "LICENSE*")  # fmt: skip
_HEADROOM = 1 << 20  # for config, tokenizer and headers


def save(model: Transformer, source: Path, destination: Path, dtype: torch.dtype | None, most: int) -> None:
    """Write a loaded model, whose config and tokenizer are in `source`. dtype None = the model's; most: bytes a shard.

    Raises SettingError for a destination that is in use, CheckpointError for what cannot be read or written.
    """
    names = architecture_of(read_json(source / "config.json")).NAMES
    tensors = {
        name: Planned(tuple(tensor.shape), dtype or tensor.dtype, partial(_same, tensor))
        for name, tensor in names.tensors(model)
    }
    _write(source, destination, tensors, most)


def convert(source: Path, destination: Path, dtype: torch.dtype | None, most: int) -> None:
    """Write what is in `source` anew without loading it: one tensor is in memory at a time. dtype None = as stored.

    Raises as `save` does, and UnsupportedModelError.
    """
    raw = read_json(source / "config.json")
    module = architecture_of(raw)
    wanted = dict(module.NAMES.shapes(module.configure(raw)))
    with Weights(source, "cpu", dtype or torch.float32) as weights:
        weights.check(wanted.items())
        tensors = {
            name: Planned(shape, dtype or weights.view(name).dtype, partial(weights.view, name))
            for name, shape in wanted.items()
        }
        _write(source, destination, tensors, most)


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _write(source: Path, destination: Path, tensors: Mapping[str, Planned], most: int) -> None:
    needed = sum(tensor.nbytes for tensor in tensors.values()) + _HEADROOM
    with _whole_or_nothing(destination, needed) as part:
        write_shards(part, tensors, most)
        raw = read_json(source / "config.json")
        dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}
        if len(dtypes) == 1:  # a checkpoint of several dtypes says of itself what it said before
            raw |= dict.fromkeys(("torch_dtype", *({"dtype"} & raw.keys())), dtypes.pop())
        (part / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
        for pattern in _COPIED:
            for file in source.glob(pattern):
                shutil.copyfile(file, part / file.name)


@contextmanager
def _whole_or_nothing(destination: Path, needed: int) -> Iterator[Path]:
    """A directory beside `destination` that takes its place at the end, or is removed. Raises as `save` says."""
    parent = destination.absolute().parent
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise SettingError(f"directory={str(destination)!r} is in use; give one that does not exist or is empty")
    if not parent.is_dir():
        raise SettingError(f"directory={str(destination)!r}: {parent} does not exist; make it first")
    if (free := shutil.disk_usage(parent).free) < needed:
        raise CheckpointError(f"{destination}: needs {needed} bytes and the disk has {free}; free some")
    part = parent / f".{destination.name}.{secrets.token_hex(4)}.part"
    try:
        part.mkdir()
        yield part
        if destination.is_dir():
            destination.rmdir()
        part.rename(destination)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "free some space" if full else "choose another place"
        raise CheckpointError(f"{destination}: cannot be written ({error.strerror or error}); {fix}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
