"""The OpenAI-compatible server (extra `serve`): `build` makes an ASGI application of an engine's service and a model.

app.py puts it together; schema.py holds the request bodies, answer.py turns one into requests to the engine and their
updates into choices, chat.py and completions.py write these as OpenAI does. What every request passes on its way in:
metrics.py, errors.py, auth.py, admission.py.
"""

from dkv.server.app import build
from dkv.server.gate import Gate
from dkv.server.limits import Limits

__all__ = ["Gate", "Limits", "build"]
