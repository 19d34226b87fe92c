"""The tensors of a checkpoint directory, lazily: checked by their headers first, then read one at a time.

Nothing is executed and nothing is unpickled: safetensors only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dkv.checkpoints.safetensors_header import Shape, problems_of, read_headers, unknown_tensors
from dkv.distributed.shard import Cut
from dkv.errors import CheckpointError, UnsupportedModelError
from dkv.storage.machine import machine_memory

__all__ = ["Weights", "check_room"]

_ROWS = 4096  # of a part


class Weights:
    """The tensors of a directory's safetensors files, straight to a device and dtype. Use it as a context.

    What it returns is memory of its own, never a view of a mapped file: a file that changes later changes no model.
    """

    def __init__(self, directory: Path, device: torch.device | str, dtype: torch.dtype) -> None:
        self.device, self.dtype = torch.device(device), dtype
        self.stored = read_headers(directory)
        self._opened, self._files = ExitStack(), dict[Path, Any]()

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.clear()
        self._opened.close()

    def check(self, wanted: Iterable[tuple[str, Shape]]) -> None:
        """Every wanted tensor is there, in its shape, as floats. Nothing is read. Raises CheckpointError."""
        for problem in problems_of(self.stored, wanted):
            raise CheckpointError(problem)

    def check_all(self, wanted: Iterable[tuple[str, Shape]], spare: Collection[str] = ()) -> None:
        """Every wanted tensor is there, and no other but those of `spare`. Nothing is read.

        Raises CheckpointError, and UnsupportedModelError for tensors that are not wanted.
        """
        names = []
        for name, shape in wanted:
            self.check([(name, shape)])
            names.append(name)
        unknown = unknown_tensors(self.stored, (*names, *spare))
        if unknown is not None:
            raise UnsupportedModelError(unknown)

    def same(self, one: str, other: str) -> bool:
        """Whether two tensors are stored with the same numbers; read by parts."""
        if self.stored[one].shape != self.stored[other].shape:
            return False
        parts = zip(*(torch.split(self.view(name), _ROWS) for name in (one, other)), strict=True)
        return all(torch.equal(a, b.to(a.dtype)) for a, b in parts)

    def fuse(self, parts: Mapping[str, Shape], cut: Cut | None = None) -> Tensor:
        """One tensor, or several stacked along their first dimension, each copied once into its place; or what `cut`
        leaves of each: no more than that is read into memory."""
        self.check(parts.items())
        shapes = [shape if cut is None else cut.shape(shape) for shape in parts.values()]
        rows, rest = [shape[0] for shape in shapes], shapes[0][1:]
        fused = torch.empty((sum(rows), *rest), device=self.device, dtype=self.dtype)
        for name, place in zip(parts, torch.split(fused, rows), strict=True):
            whole = self.view(name)
            place.copy_(whole if cut is None else cut.of(whole))
        return fused

    def view(self, name: str) -> Tensor:
        """A tensor as it is stored, a view of the mapped file: for copying from. Raises CheckpointError."""
        path = self.stored[name].path
        try:
            if path not in self._files:
                _check_mappable(path)
                self._files[path] = self._opened.enter_context(safe_open(path, framework="pt"))
            tensor: Tensor = self._files[path].get_tensor(name)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            line = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(f"{path}: tensor {name!r} cannot be read ({line}); fetch it again") from None
        return tensor


def _check_mappable(path: Path) -> None:
    """Raises CheckpointError for a file that the system would refuse to map."""
    size, memory = path.stat().st_size, machine_memory()
    if memory is not None and size > memory:
        raise CheckpointError(
            f"{path}: has {size / 1e9:.2f} GB and cannot be mapped: the memory has {memory / 1e9:.2f} GB; "
            "write it in smaller shards, elsewhere"
        )


def check_room(needed: int, device: torch.device) -> None:
    """Raises CheckpointError where a device has less memory than a model's `needed` bytes, before any is taken."""
    memory = None
    if device.type == "cpu":
        memory = machine_memory()
    elif device.type == "cuda":
        memory = torch.cuda.mem_get_info(device)[1]
    if memory is not None and needed > memory:
        raise CheckpointError(
            f"the weights take {needed / 1e9:.2f} GB and {device} has {memory / 1e9:.2f} GB of memory; "
            "give a smaller dtype, quantize=, tensor_parallel= or another device"
        )
