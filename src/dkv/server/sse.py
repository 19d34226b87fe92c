"""Server-sent events: one JSON object each, for OpenAI's routes and for the playground."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from dkv.server.api_errors import api_error

__all__ = ["MEDIA_TYPE", "EventStream", "RefusedError", "event"]

MEDIA_TYPE = "text/event-stream"
_DONE = b"data: [DONE]\n\n"


def event(data: dict[str, Any] | None) -> bytes:
    """One event; None: a comment, which clients skip. JSON in ASCII holds no line end of any kind."""
    if data is None:
        return b": wait\n\n"
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


class RefusedError(Exception):
    """Raised by a source before its first event: the answer is an error of this status. retry: seconds after which the
    same request may succeed; None: not by itself."""

    def __init__(self, status: int, line: str, retry: int | None = None) -> None:
        super().__init__(line)
        self._status, self._retry = status, retry

    @property
    def response(self) -> Response:
        """In the shape of OpenAI's errors, the message alone."""
        headers = {} if self._retry is None else {"retry-after": str(self._retry)}
        return JSONResponse({"error": {"message": str(self)}}, self._status, headers)


class EventStream(Response):
    """A response of events as they come. An error before the first one gets a status of its own, a later one is the
    last event. However it ends, also when the client leaves, the source is closed. done: end with `[DONE]`."""

    media_type = MEDIA_TYPE

    def __init__(self, source: AsyncGenerator[dict[str, Any] | None, None], done: bool = True) -> None:
        super().__init__()
        self._source, self._last = source, _DONE if done else b""
        del self.headers["content-length"]
        # A proxy that gathers events would hide that they come one by one.
        self.headers.update({"cache-control": "no-cache", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything. Raises what the source raises before its first event, if it is no RefusedError."""
        tasks = [asyncio.create_task(self._answer(scope, receive, send)), asyncio.create_task(_leave(receive))]
        async with aclosing(self._source):
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                answered, _ = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(answered, Exception):
            raise answered

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            first = await anext(self._source)
        except RefusedError as refusal:
            await refusal.response(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await _send(send, event(first))
        last = self._last
        try:
            async for data in self._source:
                await _send(send, event(data))
        except Exception as error:
            last = event(api_error(error).body)
        await send({"type": "http.response.body", "body": last, "more_body": False})


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _leave(receive: Receive) -> None:
    """Return when the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
