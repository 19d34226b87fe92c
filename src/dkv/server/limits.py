"""What one client may ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from dkv.errors import SettingError

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """body: bytes of a request; max_prompt: prompt tokens; max_tokens: of one choice; default_tokens: where a request
    names no max_tokens; choices: `n` times the prompts of one request; max_per_key: requests at once under one API key
    (None = no limit; without keys, all clients count as one); timeout: seconds from a request's arrival to its end;
    messages: of one conversation.

    Raises SettingError.
    """

    body: int = 1_000_000
    max_prompt: int = 4096
    max_tokens: int = 4096
    default_tokens: int = 128
    choices: int = 128
    max_per_key: int | None = None
    timeout: float = 600.0
    messages: int = 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not 0 < value < math.inf:
                raise SettingError(f"{field.name}={value!r} must be a positive number")
