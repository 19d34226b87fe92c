"""What every request and answer passes first: paths as the routes spell them, HEAD, and an id for each request."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["REQUEST_ID", "Paths"]

REQUEST_ID = "x-request-id"
"""The header with the id of a request: the client's own, or a new one."""
_LONGEST_ID = 128
_SLASHES = re.compile("/{2,}")


class Paths:
    """ASGI: `/v1/models/` is `/v1/models`, HEAD is GET without the body, and every answer has a request id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        is_head, identity = scope["method"] == "HEAD", _identity(scope)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = identity
            elif is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        changes = {"path": _plain(scope["path"])} | ({"method": "GET"} if is_head else {})
        return await self._app({**scope, **changes}, receive, answer)


def _plain(path: str) -> str:
    """A path without doubled slashes and without one at its end."""
    return _SLASHES.sub("/", path).rstrip("/") or "/"


def _identity(scope: Scope) -> str:
    """The client's id of the request if it sent one of visible ASCII, else a new one."""
    given = Headers(scope=scope).get(REQUEST_ID, "")
    is_usable = 0 < len(given) <= _LONGEST_ID and given.isascii() and given.isprintable()
    return given if is_usable else uuid.uuid4().hex
