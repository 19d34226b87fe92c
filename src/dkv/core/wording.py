"""How messages show values, which may be a client's and of any length; and the bounds of numbers."""

from __future__ import annotations

from typing import TypeGuard

from dkv.errors import SpecError

__all__ = ["LARGEST", "is_number", "require_number", "shown"]

LARGEST = 1e6
"""Of every number that is a factor or a bound: beyond any use, and so far from where float32 ends that no product of
such a number with a logit gets there."""
_MOST = 80


def require_number(name: str, key: str, value: object, what: str, *, zero: bool = True) -> None:
    """Refuse a key of a cache or decoder, `name` as in "decoder='factor'", that is no number from 0 to `LARGEST`, or is
    0 without `zero`. what: it must be, in words. Raises SpecError."""
    if not (is_number(value) and 0 <= value <= LARGEST and (zero or value > 0)):
        raise SpecError(f"{name}: {key}={shown(value)} must be {what}, at most {LARGEST:g}")


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is one: True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value as a message names it, short enough for its one line."""
    try:
        text = value if isinstance(value, str) and len(value) > _MOST else repr(value)
    except Exception:  # a whole number of more digits than Python writes, or a __repr__ that raises
        return f"a value of type {type(value).__name__}"
    if len(text) <= _MOST:
        return text
    return f"{text[: _MOST - 30]!r}... ({len(text)} characters)"
