"""The playground's three routes: the page, what it offers, and a run told step by step.

The page is one file without outside assets; its policy lets it run its own script and style and talk to its own server,
nothing else. The routes are the page's own and may change with it: programs use /v1.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, ValidationError

from dkv.errors import BusyError, DkvError, EngineError, PromptError, SettingError
from dkv.server.playground.events import Telling, error_event
from dkv.server.playground.lines import Lines, Refusal
from dkv.server.playground.options import options_of

if TYPE_CHECKING:
    from dkv import engine
    from dkv.lm import DiffusionLM

__all__ = ["playground"]

_LONGEST = 1024
"""Cells: more cannot be looked through, and a browser draws each of them at each step."""


class _Asked(BaseModel):
    """The body of a run; the names are those of `lm.generate`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str
    gen_length: int = 128
    block_length: int | None = None
    steps: int | None = None
    temperature: float = 0.0
    seed: int | None = None
    cache: str = "dkv-decode"
    decoder: str | None = None
    cfg_scale: float = 0.0


def playground(
    service: engine.Service, lm: DiffusionLM, *, guard: Callable[..., Any] | None = None, longest: int = _LONGEST
) -> APIRouter:
    """The routes, to be included in an app. guard: a dependency that lets a request through or raises an HTTPException
    (the page itself, which holds nothing, is not guarded); longest: the most gen_length of a run."""
    router = APIRouter(include_in_schema=False)
    guards = [] if guard is None else [Depends(guard)]
    page, policy = _page()
    options = options_of(lm, longest)

    @router.get("/")
    def show() -> Response:
        return HTMLResponse(page, headers={"content-security-policy": policy, **_HEADERS})

    @router.get("/playground/options", dependencies=guards)
    def offer() -> dict[str, Any]:
        return options

    @router.post("/playground/run", dependencies=guards)
    async def run(request: Request) -> Response:
        try:
            asked = await _read(request, longest)
            return Lines(_told(service, lm, _requested(lm, asked)))
        except Refusal as refusal:
            return refusal.response()

    return router


_HEADERS = {"cache-control": "no-cache", "referrer-policy": "no-referrer", "x-content-type-options": "nosniff"}


def _page() -> tuple[str, str]:
    """The page, and a Content-Security-Policy that knows its script and style by their hashes."""
    page = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    (script,), (style,) = (_hashes(page, tag) for tag in ("script", "style"))
    return page, (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(page: str, tag: str) -> list[str]:
    inside = re.findall(f"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in inside]


async def _read(request: Request, longest: int) -> _Asked:
    """The body, checked for its form. Raises Refusal."""
    # Other sites' pages can send a body of another type here without asking first.
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refusal(415, "content-type must be application/json")
    try:
        asked = _Asked.model_validate_json(await request.body())
    except ValidationError as error:
        raise Refusal(400, _first(error)) from None
    if asked.gen_length > longest:
        raise Refusal(400, f"gen_length={asked.gen_length} is more than the playground draws; use at most {longest}")
    return asked


def _first(error: ValidationError) -> str:
    """The first thing wrong, on one line."""
    found = error.errors(include_url=False, include_context=False)[0]
    name = ".".join(map(str, found["loc"])) or "body"
    return f"{name}: {found['msg'][0].lower()}{found['msg'][1:]}"


def _requested(lm: DiffusionLM, asked: _Asked) -> engine.Request:
    """What the engine is asked for. Raises Refusal."""
    settings = asked.model_dump(exclude={"prompt"})
    try:
        return lm.request(_prompt(lm, asked.prompt), frames=True, **settings)
    except (SettingError, PromptError) as error:
        raise Refusal(400, str(error)) from None


def _prompt(lm: DiffusionLM, text: str) -> str | list[int]:
    """The text; its ids for a checkpoint that reads no text. Raises PromptError."""
    if lm.tokenizer is not None:
        return text
    try:
        return [int(item) for item in text.replace(",", " ").split()]
    except ValueError:
        raise PromptError(f"prompt: {text[:40]!r} is not a list of token ids; this checkpoint reads no text") from None


async def _told(service: engine.Service, lm: DiffusionLM, request: engine.Request) -> AsyncGenerator[dict[str, Any]]:
    """The events of one run. Raises Refusal before the first."""
    telling, begun = Telling(lm, request), False
    try:
        async with aclosing(service.stream(request)) as updates:  # type: ignore[type-var]
            async for update in updates:
                if not begun:
                    begun = True
                    yield telling.start()
                for event in telling.update(update, service.status().active - 1):
                    yield event
    except DkvError as error:
        if not begun:
            raise Refusal(_status_of(error), str(error)) from None
        yield error_event(str(error))


def _status_of(error: DkvError) -> int:
    if isinstance(error, BusyError):
        return 503
    return 500 if isinstance(error, EngineError) else 400
