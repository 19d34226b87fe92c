"""Arguments as plain Python values: what numpy, torch and others call a number or an array of numbers.

Neither numpy nor torch is imported: an array is what has `tolist`, a whole number what has `__index__`.
"""

from __future__ import annotations

import operator
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

from dkv.errors import SettingError

__all__ = ["ArrayLike", "as_count", "as_index", "plain", "plain_fields"]

T = TypeVar("T")


@runtime_checkable
class ArrayLike(Protocol):
    """A tensor, an array, or a scalar of either: anything with `tolist`."""

    def tolist(self) -> Any:
        """The same as (nested lists of) Python numbers."""
        ...


def plain(value: Any) -> Any:
    """The value as Python's own bool, int, float or (nested) list where it is another library's; else as it is."""
    if value is None or type(value) in (bool, int, float, str, list, tuple, dict):
        return value
    if isinstance(value, ArrayLike):
        return _listed(value)
    if isinstance(value, (str, bool)):
        return value
    for protocol, convert in (("__index__", operator.index), ("__float__", float)):
        if hasattr(value, protocol):
            return convert(value)
    return value


def _listed(value: ArrayLike) -> Any:
    """Its numbers; the value itself where it has none at hand, as a tensor on the device "meta" or a sparse one."""
    try:
        return value.tolist()
    except (NotImplementedError, RuntimeError):
        return value


def as_index(value: Any) -> int | None:
    """The value as an int; None for what is no whole number. A bool is none, nor is 8.0."""
    value = plain(value)
    return value if type(value) is int else None


def as_count(argument: str, value: Any) -> int:
    """The value as an int of at least 1. Raises SettingError naming the argument."""
    count = as_index(value)
    if count is None or count < 1:
        raise SettingError(f"{argument}={plain(value)!r} must be a whole number of at least 1")
    return count


def plain_fields(made: T) -> T:
    """A dataclass object, such as a cache or a decoder, with its numbers as Python's own."""
    if not is_dataclass(made) or isinstance(made, type):
        return made
    old = {field.name: getattr(made, field.name) for field in fields(made) if field.init}
    new = {name: plain(value) for name, value in old.items()}
    changed = {name: value for name, value in new.items() if value is not old[name]}
    return replace(made, **changed) if changed else made
