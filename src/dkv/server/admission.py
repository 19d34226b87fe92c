"""The way in of every POST: what one client may ask for, how many may be inside, a body of bounded size, and out at
once when the client leaves."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dkv.errors import SettingError
from dkv.server.api_errors import ApiError
from dkv.server.middleware import CALLER
from dkv.server.sse import MEDIA_TYPE, event

__all__ = ["Admission", "Gate", "Limits"]

_GROWING = 1024
"""Tokens of a canvas that grows, which costs memory alone."""
_WHOLE = 128
"""Tokens of one that does not: every step may compute all of them."""
_SWALLOWED = 16
"""Times the limit of a body that is read and dropped: a client that is still sending would not see the refusal."""
_LAST_WORDS = 1.0


@dataclass(frozen=True)
class Limits:
    """body: bytes of a request; max_prompt: prompt tokens; max_tokens: of one choice; default_tokens: where a request
    names no max_tokens, None = 1024 on a canvas that grows and 128 on one that is computed whole; choices: `n` times
    the prompts of one request; max_per_key: requests at once under one API key (None = no limit; without keys, all
    clients count as one); timeout: seconds from a request's arrival to its end; messages: of one conversation.

    Raises SettingError.
    """

    body: int = 1_000_000
    max_prompt: int = 4096
    max_tokens: int = 4096
    default_tokens: int | None = None
    choices: int = 128
    max_per_key: int | None = None
    timeout: float = 600.0
    messages: int = 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not 0 < value < math.inf:
                raise SettingError(f"{field.name}={value!r} must be a positive number")

    def tokens(self, grows: bool, at_least: int = 0) -> int:
        """Of a choice whose request names no max_tokens. grows: whether its canvas does; at_least: its min_tokens."""
        default = self.default_tokens or (_GROWING if grows else _WHOLE)
        return min(max(default, at_least), self.max_tokens)


class Gate:
    """Lets requests in up to the limit of their key, ends them at the timeout, and closes for the shutdown."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._clocks: set[asyncio.Timeout] = set()
        self._counts: Counter[int] = Counter()
        self.closed = False

    @property
    def inside(self) -> int:
        """Requests being served."""
        return len(self._clocks)

    def close(self) -> None:
        """Let no more in. Those inside go on."""
        self.closed = True

    def clear(self) -> None:
        """End those inside now."""
        for clock in self._clocks:
            clock.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def admit(self, caller: int) -> AsyncIterator[None]:
        """Count a request under its key while it is served. Raises ApiError: 503 closed, 429 too many, 504 too long."""
        if self.closed:
            raise ApiError(503, "the server is shutting down", code="shutting_down", retry=1)
        most = self._limits.max_per_key
        if most is not None and self._counts[caller] >= most:
            message = f"{most} requests are being answered under this key; wait for one of them"
            raise ApiError(429, message, code="too_many_requests", retry=1)
        clock = asyncio.timeout(self._limits.timeout)
        self._counts[caller] += 1
        self._clocks.add(clock)
        try:
            async with clock:
                yield
        except TimeoutError:
            if not clock.expired():
                raise
            raise self._ended() from None
        finally:
            self._counts[caller] -= 1
            self._clocks.discard(clock)

    def _ended(self) -> ApiError:
        if self.closed:
            return ApiError(503, "the server shut down before the answer was done", code="shutting_down", retry=1)
        message = f"the answer took longer than {self._limits.timeout:g} s; ask for fewer tokens or steps"
        return ApiError(504, message, code="timeout")


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
