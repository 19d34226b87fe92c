"""Typed reads of a checkpoint's JSON files. Every error names the file or the key."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dkv.errors import CheckpointError, UnsupportedModelError
from dkv.storage.regular_file import read_known

__all__ = ["MOST_LAYERS", "Fields", "read_json", "shown"]

MOST_LAYERS = 4096
"""More is no model but damage, and counting through it would take forever."""

_LONGEST_SHOWN = 100
_MOST_NUMBER = sys.float_info.max  # an integer of JSON may be larger, and then is no float


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError, also for a key that stands twice with two values."""
    content = read_known(path)
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_without_repeats)
    except _RepeatedError as error:
        raise CheckpointError(
            f"{path}: names the key {error.args[0]!r} twice, with two values; fetch it again"
        ) from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: is not valid JSON; fetch the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds {type(value).__name__}, not an object; fetch the file again")
    return value


class _RepeatedError(Exception):
    """A key that stands twice in an object, with two values."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if repr(found[key]) != repr(value):
                raise _RepeatedError(key)
    return found


def shown(value: object) -> str:
    """A value in an error, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = "a number of thousands of digits"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


@dataclass(frozen=True)
class Fields:
    """Typed reads of a config.json; every method raises CheckpointError naming the key."""

    raw: Mapping[str, Any]

    def require(self, required: Mapping[str, tuple[Any, ...]], family: str) -> None:
        """Every key has one of its allowed values; the last of them stands for a key left out.

        Raises UnsupportedModelError naming the first that has not.
        """
        for key, allowed in required.items():
            value = self.raw.get(key, allowed[-1])
            if not any(value is a or (a is not None and value == a and type(value) is type(a)) for a in allowed):
                raise UnsupportedModelError(
                    f"config.json: {key}={shown(value)} is not supported; {family} has {allowed[0]!r}"
                )

    def flag(self, key: str, default: bool) -> bool:
        """A bool."""
        value = self.raw.get(key)
        value = default if value is None else value
        if type(value) is not bool:
            raise CheckpointError(f"config.json: {key}={shown(value)} must be true or false")
        return value

    def size(self, key: str, default: int | None = None, most: int = (1 << 31) - 1) -> int:
        """A positive int, at most `most`."""
        value = self.raw.get(key)
        value = default if value is None else value
        if type(value) is not int or not 0 < value <= most:
            raise CheckpointError(
                f"config.json: {key}={shown(value)} must be a positive whole number of at most {most}"
            )
        return value

    def number(self, key: str, default: float) -> float:
        """A positive finite float."""
        value = self.raw.get(key)
        value = default if value is None else value
        if type(value) not in (int, float) or not 0 < value <= _MOST_NUMBER:
            raise CheckpointError(f"config.json: {key}={shown(value)} must be a positive number")
        return float(value)

    def ids(self, key: str, vocab: int, default: int | None = None) -> tuple[int, ...]:
        """One token id or a list of them, each within the vocabulary."""
        value = self.raw.get(key)
        value = default if value is None else value
        listed = value if isinstance(value, list) else [value]
        if not listed or any(type(v) is not int or not 0 <= v < vocab for v in listed):
            raise CheckpointError(f"config.json: {key}={shown(value)} must be a token id below {vocab}")
        return tuple(listed)
