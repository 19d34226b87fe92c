"""What one client may ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from dkv.errors import SettingError

__all__ = ["Limits"]

_GROWING = 1024
"""Tokens of a canvas that grows, which costs memory alone."""
_WHOLE = 128
"""Tokens of one that does not: every step may compute all of them."""


@dataclass(frozen=True)
class Limits:
    """body: bytes of a request; max_prompt: prompt tokens; max_tokens: of one choice; default_tokens: where a request
    names no max_tokens, None = 1024 on a canvas that grows and 128 on one that is computed whole; choices: `n` times
    the prompts of one request; max_per_key: requests at once under one API key (None = no limit; without keys, all
    clients count as one); timeout: seconds from a request's arrival to its end; messages: of one conversation.

    Raises SettingError.
    """

    body: int = 1_000_000
    max_prompt: int = 4096
    max_tokens: int = 4096
    default_tokens: int | None = None
    choices: int = 128
    max_per_key: int | None = None
    timeout: float = 600.0
    messages: int = 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not 0 < value < math.inf:
                raise SettingError(f"{field.name}={value!r} must be a positive number")

    def tokens(self, grows: bool, at_least: int = 0) -> int:
        """Of a choice whose request names no max_tokens. grows: whether its canvas does; at_least: its min_tokens."""
        default = self.default_tokens or (_GROWING if grows else _WHOLE)
        return min(max(default, at_least), self.max_tokens)
