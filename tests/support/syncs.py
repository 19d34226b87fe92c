"""Counts where the host waits for the device, on any device: reads of a value, values sent to it, and shapes that
depend on values.

A CPU tensor answers `tolist()` without a dispatch, so calls are counted where Python makes them, and operations whose
result's shape hangs on their values (`nonzero`, a boolean index, ...) where torch dispatches them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Syncs"]

_READS = {
    getattr(Tensor, name): name
    for name in ("tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__contains__")
}
"""Calls that bring values to the host."""

_SENDS = {torch.tensor: "tensor", torch.as_tensor: "as_tensor", torch.asarray: "asarray"}
"""Calls that send values to the device that they name; the host waits until they are there."""

_SHAPES = {
    "aten::nonzero", "aten::masked_select", "aten::unique_dim", "aten::_unique2", "aten::unique_consecutive",
    "aten::repeat_interleave", "aten::equal", "aten::is_nonzero", "aten::argwhere", "aten::bincount",
}  # fmt: skip
"""Operations that the host must wait for; an index with a boolean tensor is one too."""


class _Calls(TorchFunctionMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        if func in _READS:
            self._found.append(_READS[func])
        if func in _SENDS and "device" in (kwargs or {}):
            self._found.append(_SENDS[func])
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, found: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found = found

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func.name().split(".")[0]
        sized = name == "aten::repeat_interleave" and kwargs.get("output_size") is not None
        boolean = name in ("aten::index", "aten::index_put_") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if boolean or (name in _SHAPES and not sized):
            self._found.append(name)
        return func(*args, **kwargs)


class Syncs:
    """A context; `found` names what was met in it."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._modes = ExitStack()

    def __enter__(self) -> Syncs:
        for mode in (_Calls(self.found), _Operations(self.found)):
            self._modes.enter_context(mode)
        return self

    def __exit__(self, *error: Any) -> None:
        self._modes.__exit__(*error)
