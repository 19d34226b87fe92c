"""A response of server-sent events that ends its source when the client leaves, also before there is any event."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import anyio
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from dkv.server.sse import event

__all__ = ["PlaygroundStream", "RefusedError"]

_HEADERS = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # a proxy that gathers events would hide that they come one by one
)


class RefusedError(Exception):
    """Raised by a source before its first event: the answer is an error of this status. retry: seconds after which the
    same request may succeed; None: not by itself."""

    def __init__(self, status: int, line: str, retry: int | None = None) -> None:
        super().__init__(line)
        self._status, self._retry = status, retry

    @property
    def response(self) -> Response:
        """In the shape of the other routes' errors."""
        headers = {} if self._retry is None else {"retry-after": str(self._retry)}
        return JSONResponse({"error": {"message": str(self)}}, self._status, headers)


class PlaygroundStream(Response):
    """Sends what `source` yields, each as JSON. The status is known when the first event is: 200, or that of the
    RefusedError which the source raises instead. When the client leaves, the source is closed where it stands."""

    def __init__(self, source: AsyncGenerator[dict[str, Any]]) -> None:
        super().__init__()
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, watching meanwhile whether the client is still there."""
        refusal = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_leave, receive, tasks.cancel_scope)
                refusal = await self._answer(send)
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._source.aclose()
        if refusal is not None:
            await refusal.response(scope, receive, send)

    async def _answer(self, send: Send) -> RefusedError | None:
        """Send all there is to send; or the refusal that came instead of the first event."""
        try:
            first = await anext(self._source)
        except RefusedError as refusal:
            return refusal
        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        await _send(send, first)
        async for data in self._source:
            await _send(send, data)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return None


async def _send(send: Send, data: dict[str, Any]) -> None:
    await send({"type": "http.response.body", "body": event(data), "more_body": True})


async def _leave(receive: Receive, scope: anyio.CancelScope) -> None:
    """Cancel `scope` when the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
