"""Writing safetensors shard by shard, one tensor in memory at a time.

The library's own writer wants all of a file's tensors at once, and numpy; the format is a JSON header and raw bytes.
"""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from dkv.checkpoints.safetensors_header import Shape
from dkv.checkpoints.weight_files import INDEX, SINGLE
from dkv.errors import SettingError

__all__ = ["Planned", "parse_size", "write_shards"]

_SPELLED = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([KMG]?B|)")
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_ALIGNED = 64  # the tensors begin on a cache line of the mapped file


@dataclass(frozen=True)
class Planned:
    """A tensor to be written: in which shape and dtype, and how to get it when its turn comes."""

    shape: Shape
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Its bytes in the file."""
        return prod(self.shape) * self.dtype.itemsize


def parse_size(text: str, name: str = "max_shard_size") -> int:
    """Bytes of "5GB", "200MB" or "1000000", powers of ten. name: the argument's. Raises SettingError."""
    match = _SIZE.fullmatch(text.strip().upper())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size < 1:
        raise SettingError(f"{name}={text!r} is not a size; write it like 5GB or 200MB")
    return size


def write_shards(directory: Path, tensors: Mapping[str, Planned], most: int) -> None:
    """Write the tensors in their order into files of at most `most` bytes of tensors (one larger tensor has a file of
    its own), with an index where there are several. Raises OSError."""
    shards = list(_shards(tensors, most))
    if len(shards) == 1:
        _write(directory / SINGLE, shards[0])
        return
    weight_map = dict[str, str]()
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write(directory / name, shard)
        weight_map |= dict.fromkeys(shard, name)
    metadata = {"total_size": sum(tensor.nbytes for tensor in tensors.values())}
    index = json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2)
    (directory / INDEX).write_text(index + "\n", encoding="utf-8")


def _shards(tensors: Mapping[str, Planned], most: int) -> Iterator[dict[str, Planned]]:
    shard: dict[str, Planned] = {}
    for name, tensor in tensors.items():
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > most:
            yield shard
            shard = {}
        shard[name] = tensor
    yield shard


def _write(path: Path, tensors: Mapping[str, Planned]) -> None:
    """One file: the header's length in eight bytes, the header padded with blanks, the tensors without gaps."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        first, end = end, end + tensor.nbytes
        header[name] = {"dtype": _SPELLED[tensor.dtype], "shape": tensor.shape, "data_offsets": [first, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNED)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            ready = tensor.read().detach().to("cpu", tensor.dtype).contiguous()
            file.write((ctypes.c_char * tensor.nbytes).from_address(ready.data_ptr()))
