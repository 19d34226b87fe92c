"""The way in of every POST: through the gate, with a body of bounded size, and out at once when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dkv.server.api_errors import ApiError
from dkv.server.auth import CALLER
from dkv.server.gate import Gate
from dkv.server.limits import Limits
from dkv.server.sse import MEDIA_TYPE, event

__all__ = ["Admission"]

_SWALLOWED = 16
"""Times the limit of a body that is read and dropped: a client that is still sending would not see the refusal."""
_LAST_WORDS = 1.0


class Admission:
    """ASGI: GETs pass; a POST is admitted, its body read, and its handling cancelled with the client's disconnect."""

    def __init__(self, app: ASGIApp, gate: Gate, limits: Limits) -> None:
        self._app, self._gate, self._limits = app, gate, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or answer 413, 429, 503 or 504."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        begun = _Begun(send)
        try:
            async with self._gate.admit(scope[CALLER]):
                body = await _read(receive, _declared(scope), self._limits.body)
                if body is not None:
                    await _attended(receive, self._app(scope, _Replay(body), begun))
        except ApiError as error:
            await _tell(error, begun, scope, receive, send)
        return None


class _Begun:
    """`send`, and what has gone through it. media: the content type of the answer, None before it began."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.media: str | None = None
        self.ended = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.media = Headers(raw=message.get("headers", [])).get("content-type", "")
        self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)


async def _tell(error: ApiError, begun: _Begun, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error, as the last event where a stream had begun; a client that reads nothing is not waited
    for."""
    if begun.media is None:
        await error.response(scope, receive, send)
    elif begun.media.startswith(MEDIA_TYPE) and not begun.ended:
        last: Message = {"type": "http.response.body", "body": event(error.body), "more_body": False}
        sending = asyncio.ensure_future(send(last))
        await asyncio.wait([sending], timeout=_LAST_WORDS)
        sending.cancel()


class _Replay:
    """`receive` for a body that was read already."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def __call__(self) -> Message:
        if self._body is None:
            await asyncio.Event().wait()  # a disconnect cancels the handler instead of being told to it
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def _declared(scope: Scope) -> int:
    length = Headers(scope=scope).get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0


async def _read(receive: Receive, declared: int, most: int) -> bytes | None:
    """The body, chunked or not; None where the client left. Raises ApiError: 413."""
    chunks, size = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk = message.get("body", b"")
        size += len(chunk)
        if max(size, declared) <= most:
            chunks.append(chunk)
        if not message.get("more_body", False) or max(size, declared) > _SWALLOWED * most:
            break
    if max(size, declared) > most:
        raise ApiError(413, f"the body exceeds {most} bytes; send less", code="request_too_large")
    return b"".join(chunks)


async def _attended(receive: Receive, work: Awaitable[None]) -> None:
    """Do the work, or as much as there is time for before the client leaves."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        finished = working.done()
        if not finished:
            working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
    if finished:
        working.result()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
