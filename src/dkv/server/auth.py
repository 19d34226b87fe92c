"""Who may ask: API keys, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from dkv.errors import SettingError
from dkv.server.api_errors import ApiError

__all__ = ["CALLER", "Auth", "parse_keys"]

CALLER = "dkv.caller"
"""Where the ASGI scope says whose request it is: the number of the key."""

_OPEN = ("/", "/health", "/ready")


def parse_keys(text: str | None) -> tuple[str, ...]:
    """The keys of DKV_API_KEY: separated by commas, none where it is not set. Raises SettingError."""
    if text is None:
        return ()
    keys = tuple(key.strip() for key in text.split(","))
    if not all(key.isascii() and key.isprintable() and key and " " not in key for key in keys):
        raise SettingError("DKV_API_KEY: holds an empty key, or one with other than visible ASCII; unset or mend it")
    return keys


class Auth:
    """ASGI: with keys, only requests with `Authorization: Bearer KEY` pass; the page and the probes are open to all."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app, self._digests = app, [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass, or answer 401."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        caller = self._caller(Headers(scope=scope).get("authorization", ""))
        if caller is None and scope["path"] not in _OPEN:
            error = ApiError(401, "give a valid API key as `Authorization: Bearer KEY`", code="invalid_api_key")
            return await error.response(scope, receive, send)
        scope[CALLER] = caller
        return await self._app(scope, receive, send)

    def _caller(self, header: str) -> int | None:
        """The number of the key in a header, 0 where there are no keys. Every key is compared, whatever came of others:
        the time tells nothing."""
        if not self._digests:
            return 0
        scheme, _, given = header.partition(" ")
        digest, found = _digest(given.strip().encode("utf-8", "replace")), None
        for number, key in enumerate(self._digests):
            if hmac.compare_digest(key, digest):
                found = number
        return found if scheme.lower() == "bearer" else None


def _digest(key: bytes) -> bytes:
    """Equal lengths, so that not even that can be timed."""
    return hashlib.sha256(key).digest()
