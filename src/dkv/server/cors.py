"""Which web pages may use the server: cross-origin resource sharing (CORS).

By default any page may, as with vLLM. A key is a bearer token that a page must know to send it; there are no cookies,
so that a page gains nothing from who visits it. Without keys, pages that are open on this machine can use the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from dkv.errors import SettingError
from dkv.server.paths import REQUEST_ID

__all__ = ["ANY_ORIGIN", "allow_origins", "parse_origins"]

ANY_ORIGIN = ("*",)
_EXPOSED = ("retry-after", "x-should-retry", REQUEST_ID)
_SECONDS = 600


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
    """Let pages of these origins read answers, and answer what browsers ask beforehand (OPTIONS)."""
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=tuple(origins),
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=_EXPOSED,
            max_age=_SECONDS,
        )
