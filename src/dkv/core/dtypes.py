"""The dtypes that arguments can name."""

from __future__ import annotations

import torch

from dkv.errors import SettingError

__all__ = ["DTYPES", "named_dtype"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def named_dtype(argument: str, name: str, others: tuple[str, ...] = ()) -> torch.dtype:
    """The dtype `name`; `others` are names that the argument takes too. Raises SettingError."""
    if name not in DTYPES:
        raise SettingError(f"{argument}={name!r} is unknown; known: {', '.join((*others, *DTYPES))}")
    return DTYPES[name]
