"""Errors as OpenAI's API writes them: {"error": {"message", "type", "param", "code"}} and a status.

Whatever goes wrong becomes an ApiError; clients and logs see its one line, and no log sees a prompt.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dkv.errors import BusyError, CheckpointError, DkvError, EngineError, PromptError, SettingError
from dkv.server.schema import ChatBody, CompletionBody

__all__ = ["ApiError", "CatchAll", "api_error", "handle_errors"]

_ARGUMENT = re.compile(r"(\w+)\s*[=:]")
_SPELLED = {"gen_length": "max_tokens"}
"""Arguments of dkv's that the API calls otherwise."""
_FIELDS = frozenset({*ChatBody.model_fields, *CompletionBody.model_fields})
_SHORT = 40
_LONGEST = 1000
_log = logging.getLogger("dkv.server")


class ApiError(Exception):
    """An error with an HTTP status. retry: seconds after which the same request may succeed; None: not by itself."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, retry: int | None = None
    ) -> None:
        if len(message) > _LONGEST:  # a client's own words may be in it, as long as its body
            message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry = status, message, param, code, retry

    @property
    def body(self) -> dict[str, Any]:
        """The JSON that clients get."""
        kind = "rate_limit_error" if self.status == 429 else "invalid_request_error"
        if self.status >= 500:
            kind = "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> Response:
        """The whole answer. x-should-retry is what OpenAI's clients obey before they look at the status."""
        headers = {"x-should-retry": "false" if self.retry is None else "true"}
        if self.retry is not None:
            headers["retry-after"] = str(self.retry)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        # ASCII escapes: half a surrogate pair in a client's own words must not break the answer
        return Response(json.dumps(self.body), self.status, headers, "application/json")


def api_error(error: Exception, prompt: str = "prompt") -> ApiError:
    """An error of dkv's, as the API's. prompt: what the prompt is called in the request."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, (SettingError, PromptError)):
        return _refusal(str(error), prompt)
    if isinstance(error, BusyError):
        return ApiError(429, str(error), code="queue_full", retry=1)
    if isinstance(error, CheckpointError):
        _log.error("%s", error)
        message = "the model's chat template or tokenizer cannot take this; the server's log has why"
        return ApiError(500, message, code="checkpoint_failed")
    if isinstance(error, EngineError):
        _log.error("%s", error)
        return ApiError(503, "the engine has stopped; the server's log has why", code="engine_failed")
    _log.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    return ApiError(500, f"unexpected {type(error).__name__}; the server's log has where", code="internal_error")


def _refusal(message: str, prompt: str) -> ApiError:
    for ours, theirs in {**_SPELLED, "prompt": prompt}.items():
        message = re.sub(rf"\b{ours}(?=[=:]| of | is )", theirs, message)
    named = _ARGUMENT.match(message)
    param = named[1] if named else prompt if message.startswith(prompt) else None
    return ApiError(400, message, param if param in _FIELDS else None)


def handle_errors(app: FastAPI) -> None:
    """Give every error that a route raises OpenAI's shape."""

    @app.exception_handler(DkvError)
    @app.exception_handler(ApiError)
    async def _known(request: Request, error: Exception) -> Response:
        return api_error(error, "messages" if "/chat/" in request.url.path else "prompt").response

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return _invalid_body(error.errors()[0]).response

    @app.exception_handler(HTTPException)
    async def _plain(request: Request, error: HTTPException) -> Response:
        where = f"{request.method} {request.url.path}"
        if error.status_code == 404:
            return ApiError(404, f"there is no {where}; docs/serve.md lists the routes", code="unknown_url").response
        if error.status_code == 405:
            return ApiError(405, f"{where} is not allowed", code="method_not_allowed").response
        return ApiError(error.status_code, str(error.detail or HTTPStatus(error.status_code).phrase)).response


def _invalid_body(found: Mapping[str, Any]) -> ApiError:
    """The first thing wrong with a body, in one line."""
    if found["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {found.get('ctx', {}).get('error', 'it does not parse')}")
    place = [str(part) for part in found["loc"][1:]]
    param = str(found.get("ctx", {}).get("param") or (place[0] if place else "")) or None
    if not place and param is None:
        return ApiError(400, "the body must be a JSON object, sent as content-type: application/json")
    if found["type"] == "extra_forbidden":
        return ApiError(400, f"{'.'.join(place)}: there is no such field; docs/serve.md lists them", param)
    message = str(found["msg"])
    if found["type"] == "missing":
        return ApiError(400, f"{'.'.join(place)}: is required", param)
    return ApiError(400, f"{'.'.join(place) or param}{_shown(found.get('input'))}: {message}", param)


def _shown(value: object) -> str:
    plain = value is None or isinstance(value, (bool, int, float, str))
    text = json.dumps(value) if plain else ""
    return f"={text}" if 0 < len(text) <= _SHORT else ""


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
