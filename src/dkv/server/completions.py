"""POST /v1/chat/completions and /v1/completions: from a body to OpenAI's answer, whole or as events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from fastapi import APIRouter
from starlette.responses import Response

from dkv.engine import Update
from dkv.server.choices import Choice, Ending, Piece, answer
from dkv.server.requests import ModelService, Prompt, RequestBuilder
from dkv.server.schema import ChatBody, CommonRequest, CompletionBody, Message
from dkv.server.served_defaults import Source, ran_with
from dkv.server.sse import EventStream

if TYPE_CHECKING:
    from dkv.engine import Request
    from dkv.outputs import Generation

__all__ = ["STYLES", "Style", "completions", "head_of", "whole_of"]


@dataclass(frozen=True)
class Style:
    """How an endpoint writes its answers."""

    prompt: str
    """The field that prompts are in."""
    prefix: str
    """Of ids."""
    whole: str
    """The name of its object."""
    chunk: str
    """The name of an event's object."""
    prompts: Callable[[Any], Sequence[Prompt]]
    """The prompts of a body."""
    choice: Callable[[str], dict[str, Any]]
    """What holds the text in a whole choice."""
    opening: Mapping[str, Any]
    """A choice's first chunk, before any text."""
    delta: Callable[[str], dict[str, Any]]
    """What holds the text in a chunk's choice."""


def _conversation(body: ChatBody) -> list[Prompt]:
    return [[_message(message) for message in body.messages]]


def _message(message: Message) -> dict[str, str]:
    """As dkv writes messages: the developer's are the system's."""
    labels = {"name": message.name, "tool_call_id": message.tool_call_id}
    given = {label: text for label, text in labels.items() if text is not None}
    return {"role": "system" if message.role == "developer" else message.role, "content": message.content, **given}


def _texts(body: CompletionBody) -> list[Prompt]:
    """One prompt, a text or token ids, or several."""
    given = body.prompt
    is_one = isinstance(given, str) or (given and isinstance(given[0], int))
    return [cast("Prompt", given)] if is_one else list(cast("list[Prompt]", given))


STYLES = {
    "/v1/chat/completions": Style(
        prompt="messages",
        prefix="chatcmpl",
        whole="chat.completion",
        chunk="chat.completion.chunk",
        prompts=_conversation,
        choice=lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
        opening={"delta": {"role": "assistant", "content": ""}},
        delta=lambda text: {"delta": {"content": text} if text else {}},
    ),
    "/v1/completions": Style(
        prompt="prompt",
        prefix="cmpl",
        whole="text_completion",
        chunk="text_completion",
        prompts=_texts,
        choice=lambda text: {"text": text},
        opening={"text": ""},
        delta=lambda text: {"text": text},
    ),
}
"""By route."""


def completions(backend: ModelService) -> APIRouter:
    """The routes, for a backend."""
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: ChatBody) -> Response:
        """Answer a conversation."""
        return await _respond(backend, STYLES["/v1/chat/completions"], body)

    @router.post("/v1/completions", response_model=None)
    async def text_completions(body: CompletionBody) -> Response:
        """Continue texts."""
        return await _respond(backend, STYLES["/v1/completions"], body)

    return router


async def _respond(backend: ModelService, style: Style, body: CommonRequest) -> Response:
    """Answer a request. Raises ApiError and the engine's errors; in a stream, only before its first event."""
    prompts = style.prompts(body)
    full, sources = backend.filled(body)
    requests = await backend.requests(full, prompts, style.prompt)
    reply = _Reply(backend, style, full, requests, sources, backend.warnings(body, prompts))
    if body.stream:
        return EventStream(reply.chunks())
    return Response(json.dumps(await reply.whole()), media_type="application/json")


class _Reply:
    """One answer in the making."""

    def __init__(
        self,
        backend: ModelService,
        style: Style,
        body: CommonRequest,
        requests: Sequence[Request],
        sources: Mapping[str, Source],
        warnings: Sequence[str],
    ) -> None:
        self._backend, self._style, self._body, self._requests = backend, style, body, requests
        self._sources = sources
        self._more = {"dkv": {"warnings": list(warnings)}} if warnings else {}
        self._head = head_of(backend, f"{style.prefix}-{uuid.uuid4().hex}", int(time.time()))

    async def whole(self) -> dict[str, Any]:
        """The answer as one object."""
        texts = [""] * len(self._requests)
        endings = dict[int, Ending]()
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                if piece is None:
                    continue
                texts[piece.index] += piece.text
                if (ending := self._ended(piece)) is not None:
                    endings[piece.index] = ending
        whole = _whole(self._style, self._head, texts, [endings[n] for n in range(len(texts))], self._usage)
        return whole | self._more

    async def chunks(self) -> AsyncGenerator[dict[str, Any] | None, None]:
        """The answer as the data of events; None: nothing yet."""
        options = self._body.stream_options
        counted = options is not None and bool(options.include_usage)
        counting = options is not None and bool(options.continuous_usage_stats)
        opened, tokens, more = set[int](), dict[int, int](), self._more
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                if piece is None:
                    yield None
                    continue
                tokens[piece.index] = piece.tokens
                usage = {"usage": self._usage(tokens) if counting else None} if counted or counting else {}
                for choice in self._steps(piece, piece.index not in opened):
                    yield self._object(self._style.chunk, [choice]) | usage | more
                    more = {}  # said once, with the first chunk
                opened.add(piece.index)
        if counted:
            yield self._object(self._style.chunk, []) | {"usage": self._usage(tokens)}

    def _pieces(self) -> AsyncGenerator[Piece | None, None]:
        return answer(self._backend, self._requests, self._backend.bound(self._body))

    def _steps(self, piece: Piece, is_first: bool) -> Iterator[dict[str, Any]]:
        """A piece as the choices of chunks: an opening, its text with its draft, its end."""
        going: dict[str, Any] = {"index": piece.index, "logprobs": None, "finish_reason": None}
        if is_first:
            yield going | dict(self._style.opening)
        if piece.text or piece.draft is not None:
            draft = {} if piece.draft is None else {"dkv": {"draft": piece.draft}}
            yield going | self._style.delta(piece.text) | draft
        if (ending := self._ended(piece)) is not None:
            yield going | self._style.delta("") | _end(ending)

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"object": kind, **self._head, "choices": choices}

    def _ended(self, piece: Piece) -> Ending | None:
        """How a choice ended, and what it ran with."""
        if piece.ending is None:
            return None
        ran = {"settings": ran_with(self._requests[piece.index].settings), "sources": dict(self._sources)}
        return replace(piece.ending, details=piece.ending.details | ran)

    def _usage(self, tokens: Mapping[int, int]) -> dict[str, int]:
        return _usage_of(self._requests, self._body.n or 1, tokens.values())


def head_of(builder: RequestBuilder, identity: str, created: int) -> dict[str, Any]:
    """What every object of an answer says of where it comes from. created: seconds since 1970."""
    where = {"model": builder.name, "system_fingerprint": builder.fingerprint}
    return {"id": identity, "created": created, **where}


def whole_of(
    builder: RequestBuilder,
    style: Style,
    head: Mapping[str, Any],
    requests: Sequence[Request],
    generations: Sequence[Generation],
    n: int,
    bound: int,
) -> dict[str, Any]:
    """The answer of requests that were generated without an application, a generation each, as one object. n: choices
    for each prompt; bound: tokens of a choice, at most."""
    texts, endings = list[str](), list[Ending]()
    for index, (request, generation) in enumerate(zip(requests, generations, strict=True)):
        ids = tuple(generation.token_ids[: generation.stats.new_tokens])
        piece = Choice(index, request, builder, bound).take(Update(0, ids, generation.text or "", None, generation))
        texts.append(piece.text)
        endings += [] if piece.ending is None else [piece.ending]
    return _whole(style, head, texts, endings, lambda tokens: _usage_of(requests, n, tokens.values()))


def _whole(
    style: Style,
    head: Mapping[str, Any],
    texts: Sequence[str],
    endings: Sequence[Ending],
    usage: Callable[[Mapping[int, int]], dict[str, int]],
) -> dict[str, Any]:
    choices = [
        {"index": index, **style.choice(text), **_end(ending)}
        for index, (text, ending) in enumerate(zip(texts, endings, strict=True))
    ]
    tokens = {index: ending.tokens for index, ending in enumerate(endings)}
    return {"object": style.whole, **head, "choices": choices, "usage": usage(tokens)}


def _usage_of(requests: Sequence[Request], n: int, tokens: Iterable[int]) -> dict[str, int]:
    """OpenAI's usage. A prompt counts once, however many choices it has. tokens: of each choice."""
    prompt, completion = sum(len(request.prompt) for request in requests[::n]), sum(tokens)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _end(ending: Ending) -> dict[str, Any]:
    """How a choice says that it has ended."""
    return {"logprobs": None, "finish_reason": ending.finish_reason, "dkv": ending.details}
