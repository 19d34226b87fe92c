"""Modules that only an extra of the package brings, imported where they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from dkv.errors import SettingError

__all__ = ["module_of"]


def module_of(extra: str, name: str) -> Any:
    """The module `name`, which comes with `dkv[extra]`. Raises SettingError, naming the extra, where it is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        raise SettingError(f"{extra}: needs {missing.name}; pip install 'dkv[{extra}]'") from None
