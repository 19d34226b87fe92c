"""The OpenAI-compatible server (extra `serve`): `build` makes an ASGI application of an engine's service and a model.

app.py puts it together; schema.py holds the request bodies, requests.py turns one into requests to the engine,
choices.py their updates into choices, and completions.py writes these as OpenAI does. What every request passes on its
way in: middleware.py and admission.py.

Names are imported when first used: client_fields.py and served_defaults.py serve other packages too, without the extra.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dkv.server.admission import Gate, Limits
    from dkv.server.app import build

__all__ = ["Gate", "Limits", "build"]

_HOME = {"Gate": "dkv.server.admission", "Limits": "dkv.server.admission", "build": "dkv.server.app"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dkv.server' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
