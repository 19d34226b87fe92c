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
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, ValidationError

from dkv.errors import BusyError, CheckpointError, DkvError, EngineError, PromptError, RequestError, SettingError
from dkv.params import SERVED, Options
from dkv.server.playground.events import RunEvents, error_event
from dkv.server.playground.page_options import options_of
from dkv.server.requests import PromptThreads
from dkv.server.schema import with_unchecked_options
from dkv.server.served_defaults import Defaults, steps_for
from dkv.server.sse import EventStream, RefusedError

if TYPE_CHECKING:
    from dkv import engine
    from dkv.lm import DiffusionLM
    from dkv.tokenizer import Tokenizer

__all__ = ["playground"]

_DRAWN = 1024
"""Cells: more cannot be looked through, and a browser draws each of them at each step."""


@with_unchecked_options
class _Asked(BaseModel):
    """The body of a run; the names are those of `lm.generate`, null is the server's default."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str
    gen_length: int | None = None

    @property
    def options(self) -> Options:
        """The options that the run names, but its length."""
        said = self.model_dump(exclude={"prompt", "gen_length"}, exclude_none=True)
        return cast("Options", said)


def playground(
    service: engine.Service,
    lm: DiffusionLM,
    *,
    name: str | None = None,
    guard: Callable[..., Any] | None = None,
    max_prompt: int | None = None,
    max_tokens: int | None = None,
    defaults: Defaults | None = None,
) -> APIRouter:
    """The routes, to be included in an app. name: what the page calls the model, None = as it was loaded; guard: a
    dependency that lets a request through or raises an HTTPException (the page itself, which holds nothing, is not
    guarded); max_prompt, max_tokens: of a run, None = the model's context and what the page draws; defaults: of what a
    run leaves open, None = those of the model.

    Raises SettingError for a model without a tokenizer.
    """
    tokenizer, most = lm.tokenizer, min(max_tokens or _DRAWN, _DRAWN)
    if tokenizer is None:
        raise SettingError(f"model={lm.name!r} has no tokenizer, and the playground shows text; add its files")
    guards = [] if guard is None else [Depends(guard)]
    known = Defaults.of(lm) if defaults is None else defaults
    options, (page, policy) = options_of(lm, tokenizer, name or lm.name, most, known), _page()
    router, threads = APIRouter(include_in_schema=False), PromptThreads()

    @router.get("/")
    def show() -> Response:
        return HTMLResponse(page, headers={"content-security-policy": policy, **_HEADERS})

    @router.get("/playground/options", dependencies=guards)
    def offer() -> dict[str, Any]:
        return options

    @router.post("/playground/run", dependencies=guards)
    async def run(request: Request) -> Response:
        try:
            asked = await _read(request, most)
            work = partial(_requested, lm, asked, max_prompt, known, options["gen_length"])
            wanted = await threads.run(work)
            return EventStream(_events(service, tokenizer, wanted), done=False)
        except RefusedError as refusal:
            return refusal.response

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


async def _read(request: Request, most: int) -> _Asked:
    """The body, checked for its form. Raises RefusedError."""
    # Other sites' pages can send a body of another type here without asking first.
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise RefusedError(415, "content-type must be application/json")
    try:
        asked = _Asked.model_validate_json(await request.body())
    except ValidationError as error:
        raise RefusedError(400, _first(error)) from None
    if asked.gen_length is not None and asked.gen_length > most:
        raise RefusedError(400, f"gen_length={asked.gen_length} is more than the playground takes; use at most {most}")
    return asked


def _first(error: ValidationError) -> str:
    """The first thing wrong, on one line."""
    found = error.errors(include_url=False, include_context=False)[0]
    name = ".".join(map(str, found["loc"])) or "body"
    return f"{name}: {found['msg'][0].lower()}{found['msg'][1:]}"


def _requested(
    lm: DiffusionLM,
    asked: _Asked,
    max_prompt: int | None,
    defaults: Defaults,
    gen_length: int,
    attend: Callable[[], None],
) -> engine.Request:
    """What the engine is asked for. gen_length: where the run names none. Raises RefusedError."""
    try:
        arguments = _arguments(asked, defaults, gen_length if asked.gen_length is None else asked.gen_length)
        request = lm.request(asked.prompt, frames=True, attend=attend, **arguments)
    except (SettingError, PromptError) as error:
        raise RefusedError(400, str(error)) from None
    except CheckpointError:
        raise RefusedError(500, "the model's chat template or tokenizer cannot take this") from None
    if max_prompt is not None and len(request.prompt) > max_prompt:
        raise RefusedError(400, f"prompt of {len(request.prompt)} tokens exceeds the limit of {max_prompt}; shorten it")
    return request


def _arguments(asked: _Asked, defaults: Defaults, gen_length: int) -> Options:
    """The arguments of `lm.request`. A block that nobody asked for is no longer than the response, or the canvas
    reaches to its end."""
    said = asked.options
    filled = defaults.fill(cast("Options", {name: value for name, value in said.items() if name in SERVED}))
    arguments: Options = {**said, **filled.options, "gen_length": gen_length}
    length, steps = arguments.get("block_length"), arguments.get("steps")
    if gen_length > 0 and length is not None and filled.sources["block_length"] != "request":
        block = min(length, gen_length)
        whole = -(-gen_length // block) * block
        arguments |= {"block_length": block, "gen_length": whole}
        if steps is not None:
            arguments["steps"] = steps_for(steps, whole, block)
    return arguments


async def _events(
    service: engine.Service, tokenizer: Tokenizer, request: engine.Request
) -> AsyncGenerator[dict[str, Any] | None, None]:
    """The events of one run. Raises RefusedError before the first."""
    events, begun = RunEvents(tokenizer, request), False
    try:
        async with aclosing(cast("AsyncGenerator[engine.Update]", service.stream(request))) as updates:
            async for update in updates:
                if not begun:
                    begun = True
                    yield events.start()
                for event in events.update(update, service.status().active - 1):
                    yield event
    except DkvError as error:
        if not begun:
            raise _refused(error) from None
        yield error_event(error.public if isinstance(error, RequestError) else str(error))


def _refused(error: DkvError) -> RefusedError:
    if isinstance(error, BusyError):
        return RefusedError(429, str(error), retry=1)
    if isinstance(error, RequestError):
        return RefusedError(500, error.public)
    return RefusedError(503 if isinstance(error, EngineError) else 400, str(error))
