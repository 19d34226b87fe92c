"""What a checkpoint's safetensors files say that they hold, read from their headers alone: no tensor is touched.

A file is eight bytes with the length of the header, the header (JSON: dtype, shape and span of each tensor), and the
tensors without gaps or overlaps. All of that is checked here, before anything is mapped or allocated.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from dkv.checkpoints.weight_files import INDEX, WeightFiles, find_files
from dkv.errors import CheckpointError
from dkv.storage.regular_file import foreign_format, open_file

__all__ = ["PREFIX", "Shape", "Stored", "header_end", "merge", "parse_header", "problems_of", "read_headers",
           "unknown_tensors"]  # fmt: skip

Shape = tuple[int, ...]

PREFIX = 8
"""Bytes of the header's length, little-endian."""

_FIRST = 512  # enough to see what another kind of file is
_MOST_HEADER = 100_000_000  # as in the format's own library
_MOST_DIMENSIONS = 64
_FLOATS = ("F64", "F32", "F16", "BF16")
_MOST_NAMED = 4
_COMPUTED = re.compile(r"(.*\.)?(rotary\w*\.)?((original_)?inv_freq|(cos|sin)_cached|position_ids|masked_bias)")
"""Buffers that older programs stored, though they follow from the config."""

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A tensor as its header describes it. dtype: as safetensors spells it ("BF16"); path: the file that holds it."""

    path: Path
    dtype: str
    shape: Shape

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


def read_headers(directory: Path) -> dict[str, Stored]:
    """Every tensor of a directory's model by name. Raises CheckpointError for what is missing or damaged."""
    chosen = find_files(directory)
    return merge(directory, chosen, (_read_header(directory / file) for file in chosen.files))


def merge(directory: Path, chosen: WeightFiles, headers: Iterable[Mapping[str, Stored]]) -> dict[str, Stored]:
    """The tensors of all files together. Raises CheckpointError where two files hold the same tensor, or the index says
    something else than the files."""
    found: dict[str, Stored] = {}
    for header in headers:
        for name, tensor in header.items():
            if name in found:
                raise CheckpointError(
                    f"tensor {name!r} is in {found[name].path} and in {tensor.path}; "
                    "remove the file that is not the model"
                )
            found[name] = tensor
    if chosen.weight_map is not None:
        _check_map(directory / INDEX, chosen.weight_map, found)
    return found


def _check_map(index: Path, weight_map: Mapping[str, str], found: Mapping[str, Stored]) -> None:
    for name, file in weight_map.items():
        if name not in found:
            raise CheckpointError(f"{index}: says that {file} holds {name!r}, which it does not; fetch both again")
        if found[name].path.name != file:
            raise CheckpointError(
                f"{index}: says that {file} holds {name!r}, which is in {found[name].path.name}; fetch the files again"
            )
    for name, tensor in found.items():
        if name not in weight_map:
            raise CheckpointError(f"{index}: does not list {name!r}, which is in {tensor.path.name}; fetch both again")


def problems_of(stored: Mapping[str, Stored], wanted: Iterable[tuple[str, Shape]]) -> Iterator[str]:
    """What keeps the `wanted` tensors from being read, a line each, as it is found."""
    for name, shape in wanted:
        tensor = stored.get(name)
        if tensor is None:
            yield f"tensor {name!r} is missing from the checkpoint; fetch it again"
        elif tensor.shape != shape:
            yield f"{tensor.path}: tensor {name!r} has shape {list(tensor.shape)}, config.json asks {list(shape)}"
        elif tensor.dtype not in _FLOATS:
            yield f"{tensor.path}: tensor {name!r} is stored as {tensor.dtype}; only plain floats are supported"


def unknown_tensors(stored: Mapping[str, Stored], known: Collection[str]) -> str | None:
    """A line about the stored tensors that a model without them leaves out, though they may change what it computes;
    None where there are none but buffers that every program computes itself."""
    others = sorted(name for name in stored.keys() - set(known) if not _COMPUTED.fullmatch(name))
    if not others:
        return None
    more = f" and {len(others) - _MOST_NAMED} more" if others[_MOST_NAMED:] else ""
    listed = ", ".join(map(repr, others[:_MOST_NAMED])) + more
    return (
        f"{stored[others[0]].path}: holds tensors that the model of config.json does not have ({listed}); dkv would "
        "leave them out, and compute something else than the model they belong to"
    )


def _read_header(path: Path) -> dict[str, Stored]:
    with open_file(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            end = header_end(path, file.read(min(_FIRST, size)), size)
            file.seek(0)
            data = file.read(end)
        except OSError as error:
            raise _damaged(path, error.strerror or str(error)) from None
    return parse_header(path, data, size)


def header_end(path: Path, start: bytes, size: int) -> int:
    """How many bytes of a file of `size` bytes that begins with `start` the header and its length take.

    Raises CheckpointError for what is no safetensors file.
    """
    foreign = foreign_format(start)
    length = int.from_bytes(start[:PREFIX], "little")
    if len(start) < PREFIX or not 0 < length <= min(_MOST_HEADER, size - PREFIX):
        if size and foreign is not None:
            raise CheckpointError(f"{path}: {foreign}")
        if size and (text := _as_text(start[:_FIRST])):
            raise CheckpointError(
                f"{path}: is text ({text!r}), perhaps an error message saved in its place; fetch it again"
            )
        raise _damaged(path, f"a header of {length} bytes in a file of {size}")
    return PREFIX + length


def _as_text(start: bytes) -> str:
    """The first words of what is plain text; empty for anything else."""
    try:
        text = start.decode("ascii").strip()
    except UnicodeDecodeError:
        return ""
    return text[:60] if text.replace("\n", " ").replace("\r", " ").replace("\t", " ").isprintable() else ""


def parse_header(path: Path, data: bytes, size: int) -> dict[str, Stored]:
    """The tensors of a file of `size` bytes from its first bytes, all of the header among them.

    Raises CheckpointError for what is no whole safetensors file, each tensor in a place of its own.
    """
    end = header_end(path, data, size)
    if len(data) < end:
        raise _damaged(path, "the header is cut")
    if data[PREFIX] != ord("{") or data[end - 1] not in b"} \n":  # before a copy is made of what may be anything
        raise _damaged(path, "the header is not valid JSON")
    try:
        header = json.loads(str(memoryview(data)[PREFIX:end], "utf-8"), object_pairs_hook=_unique)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        spans = sorted((*_span(name, entry), name) for name, entry in tensors.items())
        _check_spans(spans, size - end)
    except (ValueError, RecursionError, AttributeError) as error:
        line = " ".join(str(error).split()) if type(error) is ValueError else "the header is not valid JSON"
        raise _damaged(path, line) from None
    return {name: Stored(path, entry["dtype"], tuple(entry["shape"])) for name, entry in tensors.items()}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the header names {twice!r} twice")
    return found


def _span(name: str, entry: Any) -> tuple[int, int]:
    """First byte of a tensor and the one after its last. Raises ValueError where it does not fit dtype and shape."""
    if not isinstance(entry, dict):
        raise ValueError(f"tensor {name!r} is no object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not (isinstance(dtype, str) and _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise ValueError(f"tensor {name!r} has no dtype, shape and data_offsets")
    begin, end = offsets
    if dtype not in _BITS:
        raise ValueError(f"tensor {name!r} has the unknown dtype {dtype!r}")
    if len(shape) > _MOST_DIMENSIONS or 8 * (end - begin) != _BITS[dtype] * prod(shape):
        raise ValueError(f"tensor {name!r} does not fit its data_offsets")
    return begin, end


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in value)


def _check_spans(spans: Collection[tuple[int, int, str]], size: int) -> None:
    """The tensors, in their order, fill `size` bytes. Raises ValueError."""
    filled, before = 0, ""
    for begin, end, name in spans:
        if begin < filled:
            raise ValueError(f"tensors {before!r} and {name!r} overlap")
        if begin > filled:
            raise ValueError(f"bytes {filled} to {begin} belong to no tensor")
        filled, before = end, name
    if filled > size:
        raise ValueError(f"its tensors need {filled} bytes, it has {size}: truncated")
    if filled < size:
        raise ValueError(f"{size - filled} bytes after the last tensor belong to no tensor")


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path}: is not a complete safetensors file ({why}); fetch it again")
