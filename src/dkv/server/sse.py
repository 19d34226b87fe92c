"""Server-sent events: one JSON object each, `[DONE]` at the end."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dkv.server.api_errors import api_error

__all__ = ["MEDIA_TYPE", "EventStream", "event"]

MEDIA_TYPE = "text/event-stream"
_DONE = b"data: [DONE]\n\n"


def event(data: dict[str, Any] | None) -> bytes:
    """One event; None: a comment, which clients skip. JSON in ASCII holds no line end of any kind."""
    if data is None:
        return b": wait\n\n"
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


class EventStream(Response):
    """A response of events as they come. An error before the first one gets a status of its own, a later one is the
    last event. However it ends, the source is closed."""

    media_type = MEDIA_TYPE

    def __init__(self, source: AsyncGenerator[dict[str, Any] | None, None]) -> None:
        super().__init__()
        self._source = source
        del self.headers["content-length"]
        self.headers.update({"cache-control": "no-cache", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything. Raises what the source raises before its first event."""
        async with aclosing(self._source) as source:
            first = await anext(source)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _send(send, event(first))
            try:
                async for data in source:
                    await _send(send, event(data))
                last = _DONE
            except Exception as error:
                last = event(api_error(error).body)
            await send({"type": "http.response.body", "body": last, "more_body": False})


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
