"""How messages show values, which may be a client's and of any length."""

from __future__ import annotations

__all__ = ["shown"]

_MOST = 80


def shown(value: object) -> str:
    """A value as a message names it, short enough for its one line."""
    try:
        text = value if isinstance(value, str) and len(value) > _MOST else repr(value)
    except Exception:  # a whole number of more digits than Python writes, or a __repr__ that raises
        return f"a value of type {type(value).__name__}"
    if len(text) <= _MOST:
        return text
    return f"{text[: _MOST - 30]!r}... ({len(text)} characters)"
