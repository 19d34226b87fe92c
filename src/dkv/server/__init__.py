"""The OpenAI-compatible server (extra `serve`): `build` makes an ASGI application of an engine's service and a model.

app.py puts it together; schema.py holds the request bodies, requests.py turns one into requests to the engine, and
choices.py their updates into choices; openai_format.py, chat_completions.py and completions.py write these as OpenAI
does. What every request passes on its way in: metrics.py, api_errors.py, auth.py, admission.py.

Names are imported when first used: client_fields.py and served_defaults.py serve other packages too, without the extra.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dkv.server.app import build
    from dkv.server.gate import Gate
    from dkv.server.limits import Limits

__all__ = ["Gate", "Limits", "build"]

_HOME = {"Gate": "dkv.server.gate", "Limits": "dkv.server.limits", "build": "dkv.server.app"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dkv.server' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
