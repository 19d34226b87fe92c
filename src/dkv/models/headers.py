"""What a checkpoint's safetensors files say that they hold, read from their headers alone: no tensor is touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from dkv.errors import CheckpointError
from dkv.models.fields import read_json

__all__ = ["Shape", "Stored", "indexed_files", "problems_of", "read_headers"]

Shape = tuple[int, ...]

_FLOATS = ("F64", "F32", "F16", "BF16")


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
    """Every tensor of a directory's files by name. Raises CheckpointError for what is missing or damaged."""
    found: dict[str, Stored] = {}
    for file in _files(directory):
        path = directory / file
        try:
            found |= _header(path)
        except (SafetensorError, OSError, ValueError) as error:
            line = " ".join(str(error).split())
            raise CheckpointError(f"{path}: is not a complete safetensors file ({line}); fetch it again") from None
    return found


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


def _header(path: Path) -> dict[str, Stored]:
    """The library checks the header against the file's size and for holes, before anything is allocated for it."""
    with safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        return {name: Stored(path, s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}


def _files(directory: Path) -> list[str]:
    """The names of the files that hold tensors. Raises CheckpointError."""
    index = directory / "model.safetensors.index.json"
    files = indexed_files(index) if index.is_file() else sorted(path.name for path in directory.glob("*.safetensors"))
    if files:
        return files
    if any((*directory.glob("*.bin"), *directory.glob("*.pt"), *directory.glob("*.pth"))):
        raise CheckpointError(
            f"{directory}: has only pickled weights, which dkv never loads; convert them to safetensors"
        )
    raise CheckpointError(f"{directory}: has no *.safetensors")


def indexed_files(index: Path) -> list[str]:
    """The files that an index names. Raises CheckpointError."""
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise CheckpointError(f"{index}: has no weight_map of file names; fetch the file again")
    if any(Path(file).name != file for file in listed.values()):
        raise CheckpointError(f"{index}: names files outside its own directory; fetch the file again")
    return sorted(set(listed.values()))
