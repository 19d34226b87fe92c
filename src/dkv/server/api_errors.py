"""Errors as OpenAI's API writes them: {"error": {"message", "type", "param", "code"}} and a status.

Whatever goes wrong becomes an ApiError; clients and logs see its one line, and no log sees a prompt.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from dkv.errors import (
    BusyError,
    CapacityError,
    CheckpointError,
    ContextError,
    DkvError,
    EngineError,
    PromptError,
    RequestError,
    SettingError,
)
from dkv.server.client_fields import near_names
from dkv.server.schema import ChatBody, CompletionBody, StreamOptions
from dkv.server.schema import Message as ChatMessage

__all__ = ["CONTEXT", "ApiError", "api_error", "handle_errors", "invalid_body"]

CONTEXT = "context_length_exceeded"
"""The code of every refusal whose reason is the length of prompt and answer."""
_FIELDS = frozenset({*ChatBody.model_fields, *CompletionBody.model_fields})
_LISTED = "GET /openapi.json lists them"
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
        return _refusal(error, prompt)
    if isinstance(error, BusyError):
        return ApiError(429, str(error), code="queue_full", retry=1)
    if isinstance(error, CheckpointError):
        _log.error("%s", error)
        message = "the model's chat template or tokenizer cannot take this; the server's log has why"
        return ApiError(500, message, code="checkpoint_failed")
    if isinstance(error, RequestError):
        _log.error("%s\n%s", error.public, error.where)
        return ApiError(500, error.public, code="request_failed")
    if isinstance(error, EngineError):
        _log.error("%s", error)
        return ApiError(503, "the engine has stopped; the server's log has why", code="engine_failed")
    _log.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    return ApiError(500, f"unexpected {type(error).__name__}; the server's log has where", code="internal_error")


def _refusal(error: SettingError | PromptError, prompt: str) -> ApiError:
    """An argument that cannot be honoured, in the words of the request."""
    if isinstance(error, CapacityError):
        message = (
            f"this server cannot hold a request of {error.positions} tokens with these settings: it needs {error.need} "
            f"bytes of cache, and there are {error.limit}; shorten {prompt}, or lower max_tokens"
        )
        return ApiError(400, message, code=CONTEXT)
    if isinstance(error, PromptError) and error.reason is not None:
        return ApiError(400, f"{prompt}: the model's chat template does not take them: {error.reason}", prompt)
    names = {"gen_length": "max_tokens", "prompt": prompt}
    message = error.message_with({"gen_length": "max_tokens"})
    if error.argument == "prompt" and message.startswith(("prompt ", "prompt:", "prompt=")):
        message = prompt + message.removeprefix("prompt")
    param = names.get(error.argument or "", error.argument)
    code = CONTEXT if isinstance(error, ContextError) else None
    return ApiError(400, message, param if param in _FIELDS else None, code)


def handle_errors(app: FastAPI) -> None:
    """Give every error that a route raises OpenAI's shape."""

    @app.exception_handler(DkvError)
    @app.exception_handler(ApiError)
    async def _known(request: Request, error: Exception) -> Response:
        return api_error(error, "messages" if "/chat/" in request.url.path else "prompt").response

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return invalid_body(error.errors(), _body_of(request.url.path)).response

    @app.exception_handler(HTTPException)
    async def _plain(request: Request, error: HTTPException) -> Response:
        return _http_error(request, error)


def _http_error(request: Request, error: HTTPException) -> Response:
    """A route or a method that there is not."""
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        message = f"there is no {where}; GET /openapi.json lists the routes"
        return ApiError(404, message, code="unknown_url").response
    if error.status_code == 400 and error.__cause__ is not None:
        return ApiError(400, _unreadable(error.__cause__)).response
    if error.status_code != 405:
        return ApiError(error.status_code, str(error.detail or HTTPStatus(error.status_code).phrase)).response
    allowed = _allowed((error.headers or {}).get("allow") or (error.headers or {}).get("Allow", ""))
    if request.method == "OPTIONS":
        return Response(status_code=204, headers={"allow": allowed})
    answer = ApiError(405, f"{where} is not allowed; it takes {allowed}", code="method_not_allowed").response
    answer.headers["allow"] = allowed
    return answer


def _unreadable(error: BaseException) -> str:
    """Why a body cannot be read, of which the framework says only that it cannot."""
    if isinstance(error, RecursionError):
        return "the body is nested too deeply"
    if isinstance(error, UnicodeError):
        return "the body is not text in UTF-8"
    return "the body is not JSON: a number in it has too many digits, or it does not parse"


def _allowed(listed: str) -> str:
    """The methods of a path: those of its route, and those that every path has."""
    methods = {name.strip() for name in listed.split(",") if name.strip()}
    return ", ".join(sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())))


def _body_of(path: str) -> type[ChatBody] | type[CompletionBody]:
    return ChatBody if "/chat/" in path else CompletionBody


def invalid_body(errors: Sequence[Mapping[str, Any]], kind: type[ChatBody] | type[CompletionBody]) -> ApiError:
    """The first thing wrong with a body, in one line; a field that is not known before one that is missing, since that
    may be the other. errors: as pydantic has them, with "body" first in each place; kind: what it should have been."""
    found = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    if found["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {found.get('ctx', {}).get('error', 'it does not parse')}")
    place = found["loc"][1:]
    param = str(found.get("ctx", {}).get("param") or (place[0] if place else "")) or None
    if not place and param is None:
        return ApiError(400, "the body must be a JSON object, sent as content-type: application/json")
    name = _spelled_place(place) or param
    if found["type"] == "extra_forbidden":
        return ApiError(400, f"{name}: {_unknown_field(place, kind)}", param)
    if found["type"] == "missing":
        return ApiError(400, f"{name}: is required", param)
    return ApiError(400, _said_of(str(name), found), param)


def _said_of(name: str, found: Mapping[str, Any]) -> str:
    """What is wrong with a field. Messages that name a place within it begin with that."""
    message = _message_of(found)
    if message.startswith(f"{name}["):
        return message
    return f"{name}{_shown(found.get('input'))}: {message}"


_MESSAGES = {
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "greater_than": "must be greater than {gt:g}",
    "int_type": "must be a whole number",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le:g}",
    "list_type": "must be a list",
    "model_attributes_type": "must be an object",
    "model_type": "must be an object",
    "string_type": "must be a text",
    "too_short": "must have at least {min_length} element",
}
"""What pydantic's kinds of errors say in this API."""


def _message_of(found: Mapping[str, Any]) -> str:
    limits = found.get("ctx", {})
    if found["type"] == "greater_than_equal":
        return "must not be negative" if limits["ge"] == 0 else f"must be at least {limits['ge']:g}"
    if found["type"] in _MESSAGES:
        return _MESSAGES[found["type"]].format(**limits)
    return re.sub("^Input should ", "must ", str(found["msg"]))


def _spelled_place(place: Sequence[int | str]) -> str:
    """Where in a body: messages[3].content."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _unknown_field(place: Sequence[int | str], kind: type[ChatBody] | type[CompletionBody]) -> str:
    """That a field is not known, and which one may be meant."""
    name = str(place[-1])
    within: dict[str, type[BaseModel]] = {"messages": ChatMessage, "stream_options": StreamOptions}
    object_type = kind if len(place) == 1 else within.get(str(place[0]))
    known = [] if object_type is None else list(object_type.model_fields)
    other = CompletionBody if kind is ChatBody else ChatBody
    if len(place) == 1 and name in other.model_fields:
        route = "/v1/chat/completions" if other is ChatBody else "/v1/completions"
        return f"there is no such field here; {route} has it"
    near = near_names(name, known)
    return (
        f"there is no such field; did you mean {' or '.join(near)}?" if near else f"there is no such field; {_LISTED}"
    )


def _shown(value: object) -> str:
    plain = value is None or isinstance(value, (bool, int, float, str))
    text = json.dumps(value) if plain else ""
    return f"={text}" if 0 < len(text) <= _SHORT else ""
