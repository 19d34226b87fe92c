"""A response of JSON lines that ends its source as soon as the client leaves, also before the first line is ready."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import anyio
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

__all__ = ["Lines", "Refusal"]

_HEADERS = (
    (b"content-type", b"application/x-ndjson; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # a proxy that gathers lines would hide that they come one by one
)


class Refusal(Exception):
    """Raised by a source before its first event: the answer is an error of this status."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status

    def response(self) -> Response:
        """In the shape of the other routes' errors."""
        headers = {"retry-after": "2"} if self.status == 503 else None
        return JSONResponse({"error": {"message": str(self)}}, self.status, headers)


class Lines(Response):
    """Sends each event of `source` as a line of JSON. The status is known when the first event is: 200, or that of the
    Refusal which the source raises instead. When the client leaves, the source is closed where it stands."""

    def __init__(self, source: AsyncGenerator[dict[str, Any]]) -> None:
        super().__init__()
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, watching meanwhile whether the client is still there."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_leave, receive, tasks.cancel_scope)
                refusal = await self._answer(send)
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._source.aclose()
        if refusal is not None:
            await refusal.response()(scope, receive, send)

    async def _answer(self, send: Send) -> Refusal | None:
        """Send all there is to send; or the refusal that came instead of the first event."""
        async with aclosing(self._source) as source:
            try:
                first = await anext(source)
            except Refusal as refusal:
                return refusal
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            await _send_line(send, first)
            async for event in source:
                await _send_line(send, event)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        return None


async def _send_line(send: Send, event: dict[str, Any]) -> None:
    body = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _leave(receive: Receive, scope: anyio.CancelScope) -> None:
    """Cancel `scope` when the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
