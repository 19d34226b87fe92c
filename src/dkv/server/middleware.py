"""What every request passes on its way in, and every answer on its way out: paths and request ids, counts for the
metrics, which web pages may ask (CORS), errors that nothing handled, and API keys."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dkv.errors import SettingError
from dkv.server.api_errors import ApiError, api_error

if TYPE_CHECKING:
    from dkv.server.metrics import Meters

__all__ = [
    "ANY_ORIGIN",
    "CALLER",
    "Auth",
    "CatchAll",
    "Paths",
    "RequestMetrics",
    "allow_origins",
    "parse_keys",
    "parse_origins",
]

_REQUEST_ID = "x-request-id"
"""The header with the id of a request: the client's own, or a new one."""
_LONGEST_ID = 128
_SLASHES = re.compile("/{2,}")
_LEFT = 499
"""The status, in the field's use, of a request whose client left before an answer began."""
ANY_ORIGIN = ("*",)
_EXPOSED = ("retry-after", "x-should-retry", _REQUEST_ID)
_SECONDS = 600
CALLER = "dkv.caller"
"""Where the ASGI scope says whose request it is: the number of the key."""
_OPEN = ("/", "/health", "/ready")


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
                MutableHeaders(scope=message)[_REQUEST_ID] = identity
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
    given = Headers(scope=scope).get(_REQUEST_ID, "")
    is_usable = 0 < len(given) <= _LONGEST_ID and given.isascii() and given.isprintable()
    return given if is_usable else uuid.uuid4().hex


class RequestMetrics:
    """ASGI: counts each request with its route and status, and its seconds."""

    def __init__(self, app: ASGIApp, meters: Meters, routes: Sequence[str]) -> None:
        self._app, self._meters, self._routes = app, meters, frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status, began = _LEFT, time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            with self._meters.inside.track_inprogress():
                await self._app(scope, receive, noted)
        finally:
            route = self._route(scope["path"])
            self._meters.requests.labels(route, str(status)).inc()
            self._meters.seconds.labels(route).observe(time.perf_counter() - began)
        return None

    def _route(self, path: str) -> str:
        """A label; clients cannot make up new ones."""
        if path.startswith("/v1/models/"):
            return "/v1/models/{id}"
        return path if path in self._routes else "other"


def parse_origins(given: Sequence[str] | None) -> tuple[str, ...]:
    """The origins of `--allow-origin`: all where it is not given, none for `none`. Raises SettingError."""
    if given is None or list(given) == ["*"]:
        return ANY_ORIGIN
    if list(given) == ["none"]:
        return ()
    return tuple(_origin(text) for text in given)


def _origin(text: str) -> str:
    """An origin as browsers send it, without a slash at its end."""
    fix = "give one like https://example.org, '*' for all, or 'none'"
    try:
        parts = urlsplit(text)
        sound = parts.scheme.isalnum() and parts.hostname and parts.path in ("", "/") and not parts.query
        if not sound or parts.fragment or parts.username or (parts.port or 0) < 0:
            raise ValueError
    except ValueError:
        raise SettingError(f"allow_origin={text!r} is no origin; {fix}", "allow_origin") from None
    return f"{parts.scheme}://{parts.netloc}".lower()


def allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of these origins read answers, and answer what browsers ask beforehand (OPTIONS).

    By default any page may, as with vLLM. A key is a bearer token that a page must know to send it; there are no
    cookies, so that a page gains nothing from who visits it. Without keys, pages that are open on this machine can use
    the server.
    """
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=tuple(origins),
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=_EXPOSED,
            max_age=_SECONDS,
        )


class CatchAll:
    """ASGI: an error that nothing handled becomes a 500, and a line in the log that says where, but not what with."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through."""
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            if scope["type"] != "http":
                raise
            answer = api_error(error)
            if not started:
                await answer.response(scope, receive, send)


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
