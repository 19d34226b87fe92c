"""Lines of OpenAI's batch files ({"custom_id", "method", "url", "body"}), answered as OpenAI's output files are.

A body means what it means to `dkv serve`: the server's own schema (extra `serve`) reads it. Where it leaves a field
out, the job's argument of that name counts.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dkv.errors import SettingError
from dkv.jobs.records import Record, openai_id
from dkv.storage.extras import module_of

if TYPE_CHECKING:
    from dkv.engine import Request
    from dkv.lm import DiffusionLM
    from dkv.outputs import Generation
    from dkv.server.requests import RequestBuilder
    from dkv.server.schema import CommonRequest

__all__ = ["OpenAILine", "OpenAILines", "custom_id_in", "is_openai_line", "openai_error", "read_openai_line"]

_URLS = ("/v1/chat/completions", "/v1/completions")
_FIELDS = ("custom_id", "method", "url", "body")
_MOST = 1 << 20
"""Of every limit that a server sets for strangers: here the input is the user's own."""


@dataclass(frozen=True)
class OpenAILine:
    """A line that was read. line: its number; name: its custom_id; url: what it is for; body: checked by the schema."""

    line: int
    name: str
    url: str
    body: CommonRequest


def is_openai_line(record: Mapping[str, Any]) -> bool:
    """Whether a line has the form of OpenAI's batch files, if perhaps not all of it."""
    return "custom_id" in record and not record.keys().isdisjoint(("method", "url", "body", "params"))


def custom_id_in(text: bytes) -> str | None:
    """The custom_id of a line of OpenAI's form that may be bad otherwise; None where there is no such."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not is_openai_line(record):
        return None
    name = record["custom_id"]
    return name if isinstance(name, str) and name else None


def read_openai_line(number: int, record: Mapping[str, Any]) -> OpenAILine:
    """Check a line. Raises SettingError, also where the extra `serve` is missing."""
    missing = [name for name in _FIELDS if name not in record]
    if missing:
        raise SettingError(f"{', '.join(missing)}: missing; a line of OpenAI's form has {', '.join(_FIELDS)}")
    for name in record:
        if name not in _FIELDS:
            raise SettingError(f"unknown field {name!r} beside custom_id; put settings into body")
    name, method, url = (record[field] for field in _FIELDS[:3])
    if not isinstance(name, str) or not name:
        raise SettingError(f"custom_id={name!r} must be a text that is not empty", "custom_id")
    if method != "POST":
        raise SettingError(f"method={method!r} must be 'POST'", "method")
    if url not in _URLS:
        raise SettingError(f"url={url!r} is not supported; known: {', '.join(_URLS)}", "url")
    return OpenAILine(number, name, url, _body_of(url, record["body"]))


def _body_of(url: str, body: object) -> CommonRequest:
    schema, errors = module_of("serve", "dkv.server.schema"), module_of("serve", "dkv.server.api_errors")
    kind = schema.ChatBody if "/chat/" in url else schema.CompletionBody
    try:
        found: CommonRequest = kind.model_validate(body)
    except module_of("serve", "pydantic").ValidationError as error:
        places = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise SettingError(f"body: {errors.invalid_body(places, kind)}") from None
    if found.stream:
        raise SettingError(
            "body: stream=true does not go with a batch, whose answers are whole; leave it out", "stream"
        )
    return found


@dataclass(frozen=True)
class OpenAILines:
    """Lines as requests to a model, and their answers. arguments: the job's, by name, for what bodies leave out."""

    lm: DiffusionLM
    arguments: Mapping[str, Any]

    def requests(self, asked: OpenAILine, seed: int) -> list[Request]:
        """The requests of a line: n for each prompt. seed: the line's own. Raises SettingError and PromptError."""
        errors, reply = module_of("serve", "dkv.server.api_errors"), module_of("serve", "dkv.server.completions")
        style, body = reply.STYLES[asked.url], self._filled(asked.body, seed)
        try:
            made = self._builder.build(body, style.prompts(body), style.prompt)
        except Exception as error:
            refused = errors.api_error(error, style.prompt)
            if refused.status >= 500:
                raise
            raise SettingError(f"body: {refused}", refused.param) from None
        return [replace(one, settings=replace(one.settings, **self._beside(body)), deltas=False) for one in made]

    def record(self, asked: OpenAILine, requests: Sequence[Request], generations: Sequence[Generation]) -> Record:
        """The answer to a line, as OpenAI's output files have it."""
        reply = module_of("serve", "dkv.server.completions")
        style, builder = reply.STYLES[asked.url], self._builder
        identity = hashlib.sha256(f"{asked.line} {asked.name} {requests[0].seed}".encode()).hexdigest()[:24]
        head = reply.head_of(builder, f"{style.prefix}-{identity}", int(time.time()))
        bound = builder.bound(self._filled(asked.body, 0))
        body = reply.whole_of(builder, style, head, requests, generations, asked.body.n or 1, bound)
        return _record(asked.line, asked.name, 200, body)

    @cached_property
    def _builder(self) -> RequestBuilder:
        """What makes requests of bodies. The model may be called as the job has it, or as a server would."""
        limits = module_of("serve", "dkv.server.admission").Limits(
            max_prompt=_MOST, max_tokens=_MOST, default_tokens=self.arguments.get("gen_length") or 128, choices=_MOST
        )
        builder = module_of("serve", "dkv.server.requests")
        made: RequestBuilder = builder.RequestBuilder(self.lm, limits, builder.served_name(self.lm.name))
        return made

    def _filled(self, body: CommonRequest, seed: int) -> CommonRequest:
        """The body with the job's arguments where it says nothing."""
        fields = type(body).model_fields
        defaults = {name: value for name, value in self.arguments.items() if name in fields and name != "seed"}
        defaults |= {"seed": seed, "max_tokens": self.arguments.get("gen_length")}
        missing = {name: value for name, value in defaults.items() if getattr(body, name) is None}
        named = {"model": self._builder.name} if body.model == self.lm.name else {}
        return body.model_copy(update={**missing, **named})

    def _beside(self, body: CommonRequest) -> dict[str, Any]:
        """The job's arguments that a body cannot name."""
        names = ("cache_dtype", "stop_at_eos")
        found = {name: self.arguments[name] for name in names if name in self.arguments}
        return {**found, "stop_at_eos": False} if body.ignore_eos else found


def openai_error(line: int, name: str, error: Exception) -> Record:
    """A line that could not be answered, and why."""
    refused = module_of("serve", "dkv.server.api_errors").api_error(error)
    return _record(line, name, refused.status, refused.body)


def _record(line: int, name: str, status: int, body: Mapping[str, Any]) -> Record:
    response = {"status_code": status, "request_id": f"req_{line}", "body": body}
    return {"id": openai_id(line), "custom_id": name, "response": response, "error": None}
