"""Which files of a checkpoint hold the model: one choice for loading, inspecting, converting and downloading.

The order is transformers': `model.safetensors` alone, else what `model.safetensors.index.json` lists. Where neither is
there, one complete set of numbered shards, else all safetensors files (which must not share a tensor). Everything
else is ignored: copies of averaged weights, optimizer states, an index that was left behind, another sharding.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dkv.checkpoints.config_fields import read_json
from dkv.checkpoints.other_formats import ADAPTER, ADAPTER_WEIGHTS, no_weights, refuse_adapter
from dkv.errors import CheckpointError
from dkv.storage.regular_file import open_file

__all__ = ["INDEX", "SINGLE", "WeightFiles", "choose_files", "find_files", "fingerprint"]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_PARTS = 64  # of each file, for its fingerprint
_PART = 4096  # bytes: training changes every weight, so a few pages of each file show it
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".gguf", ".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class WeightFiles:
    """files: names of the files that hold the model, sorted; weight_map: file of each tensor by the index, None without
    one; chosen_by: what decided, in words; ignored: the other files of weights beside them."""

    files: tuple[str, ...]
    weight_map: Mapping[str, str] | None
    chosen_by: str
    ignored: tuple[str, ...]


def find_files(directory: Path) -> WeightFiles:
    """The choice for a directory. Raises CheckpointError."""
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be read ({error.strerror}); give another directory") from None
    return choose_files(str(directory), names, lambda: read_json(directory / INDEX))


def choose_files(place: str, names: Collection[str], read_index: Callable[[], Mapping[str, Any]]) -> WeightFiles:
    """The choice among files `names` of `place`, a directory or a repository; read_index: the content of its index.

    Raises CheckpointError where nothing can be chosen, or the choice is not complete.
    """
    if ADAPTER in names and any(name in names for name in ADAPTER_WEIGHTS):
        raise refuse_adapter(place)
    weight_map = None
    if SINGLE in names:
        files, chosen_by = {SINGLE}, SINGLE
    elif INDEX in names:
        weight_map = _weight_map(f"{place}: {INDEX}", read_index())
        files, chosen_by = set(weight_map.values()), INDEX
    else:
        files, chosen_by = _without_index(place, {name for name in names if name.endswith(".safetensors")})
    if not files:
        raise refuse_adapter(place) if ADAPTER in names else no_weights(place, names)
    missing = sorted(files - set(names))
    if missing:
        raise CheckpointError(f"{place}: {_listed(missing)} is missing, which {chosen_by} names; fetch it")
    ignored = {name for name in names if name.endswith(_WEIGHTS)} - files - ({INDEX} if weight_map else set())
    return WeightFiles(tuple(sorted(files)), weight_map, chosen_by, tuple(sorted(ignored)))


def _weight_map(index: str, content: Mapping[str, Any]) -> Mapping[str, str]:
    """The file of each tensor. Raises CheckpointError."""
    listed = content.get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
        raise CheckpointError(f"{index}: has no weight_map of file names; fetch the file again")
    for file in listed.values():
        if Path(file).name != file or file in ("", ".", "..") or "\\" in file or "\0" in file:
            raise CheckpointError(f"{index}: names files outside its own directory ({file!r}); fetch the file again")
        if not file.endswith(".safetensors"):
            raise CheckpointError(f"{index}: names {file!r}, which is no safetensors file; fetch the file again")
    return listed


def _without_index(place: str, files: set[str]) -> tuple[set[str], str]:
    """The one complete set of numbered shards, the model's own name first; else all files."""
    sets: dict[tuple[str, str], set[int]] = {}
    for match in filter(None, map(_NUMBERED.fullmatch, files)):
        sets.setdefault((match[1], match[3]), set()).add(int(match[2]))
    own = {key for key in sets if key[0] == "model"} or sets.keys()
    if not own:
        return files, "no index or model.safetensors"
    if len(own) > 1:
        one, other = sorted(f"{name}-*-of-{total}.safetensors" for name, total in own)[:2]
        raise CheckpointError(f"{place}: holds {one} and {other}, and no {INDEX} says which is the model; remove one")
    ((name, total),) = own
    shards = {f"{name}-{number:05}-of-{total}.safetensors" for number in range(1, min(int(total), 100_000) + 1)}
    missing = sorted(shards - files)
    if missing:
        raise CheckpointError(f"{place}: {_listed(missing)} is missing, and so is {INDEX}; fetch them")
    return shards, f"the shards of {total}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def fingerprint(directory: Path) -> str:
    """What tells one checkpoint from another without reading all of it, so that results of two are never mixed.

    A digest of the names, the sizes and some bytes of the files that are the model; small files are read whole.
    Raises CheckpointError.
    """
    found = hashlib.blake2b(digest_size=12)
    files = find_files(directory)
    small = {path.name for path in directory.glob("*.json") if path.is_file()} - set(files.ignored)
    for name in sorted(small | set(files.files)):
        with open_file(directory / name) as file:
            size = os.fstat(file.fileno()).st_size
            found.update(f"{name} {size}\n".encode())
            for offset in range(0, size, max(_PART, size // _PARTS)):
                file.seek(offset)
                found.update(file.read(_PART))
    return found.hexdigest()
