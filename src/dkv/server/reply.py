"""From a body to the answer that an endpoint gives: whole, or as events. chat.py and completions.py say how it is
written."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol

from starlette.responses import Response

from dkv.server.answer import Ending, Piece, answer
from dkv.server.backend import Backend, Prompt
from dkv.server.schema import Settings
from dkv.server.sse import EventStream

if TYPE_CHECKING:
    from dkv.engine import Request

__all__ = ["Style", "respond"]


class Style(Protocol):
    """How an endpoint writes its answers. prompt: the field that prompts are in; prefix: of ids; whole, chunk: the
    names of its two objects."""

    prompt: str
    prefix: str
    whole: str
    chunk: str

    def choice(self, text: str) -> dict[str, Any]:
        """What holds the text in a whole choice."""

    def opening(self) -> dict[str, Any]:
        """A choice's first chunk, before any text."""

    def delta(self, text: str) -> dict[str, Any]:
        """What holds the text in a chunk's choice."""


async def respond(backend: Backend, style: Style, body: Settings, prompts: Sequence[Prompt]) -> Response:
    """Answer a request. Raises ApiError and the engine's errors; in a stream, only before its first event."""
    requests = await backend.requests(body, prompts, style.prompt)
    reply = _Reply(backend, style, body, requests, backend.warnings(body, prompts))
    if body.stream:
        return EventStream(reply.chunks())
    return Response(json.dumps(await reply.whole()), media_type="application/json")


class _Reply:
    """One answer in the making."""

    def __init__(
        self, backend: Backend, style: Style, body: Settings, requests: Sequence[Request], warnings: Sequence[str]
    ) -> None:
        self._backend, self._style, self._body, self._requests = backend, style, body, requests
        self._more = {"dkv": {"warnings": list(warnings)}} if warnings else {}
        self._id, self._created = f"{style.prefix}-{uuid.uuid4().hex}", int(time.time())

    async def whole(self) -> dict[str, Any]:
        """The answer as one object."""
        texts = [""] * len(self._requests)
        endings = dict[int, Ending]()
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                if piece is None:
                    continue
                texts[piece.index] += piece.text
                if piece.ending is not None:
                    endings[piece.index] = piece.ending
        choices = [
            {"index": index, **self._style.choice(text), **_end(endings[index])} for index, text in enumerate(texts)
        ]
        return self._object(self._style.whole, choices) | {"usage": self._usage(endings)} | self._more

    async def chunks(self) -> AsyncGenerator[dict[str, Any] | None, None]:
        """The answer as the data of events; None: nothing yet."""
        options = self._body.stream_options
        counted = options is not None and bool(options.include_usage)
        usage = {"usage": None} if counted else {}
        opened, endings, more = set[int](), dict[int, Ending](), self._more
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                if piece is None:
                    yield None
                    continue
                for choice in self._steps(piece, piece.index not in opened):
                    yield self._object(self._style.chunk, [choice]) | usage | more
                    more = {}  # said once, with the first chunk
                opened.add(piece.index)
                if piece.ending is not None:
                    endings[piece.index] = piece.ending
        if counted:
            yield self._object(self._style.chunk, []) | {"usage": self._usage(endings)}

    def _pieces(self) -> AsyncGenerator[Piece | None, None]:
        return answer(self._backend, self._requests, self._backend.bound(self._body))

    def _steps(self, piece: Piece, is_first: bool) -> Iterator[dict[str, Any]]:
        """A piece as the choices of chunks: an opening, its text with its draft, its end."""
        going: dict[str, Any] = {"index": piece.index, "logprobs": None, "finish_reason": None}
        if is_first:
            yield going | self._style.opening()
        if piece.text or piece.draft is not None:
            draft = {} if piece.draft is None else {"dkv": {"draft": piece.draft}}
            yield going | self._style.delta(piece.text) | draft
        if piece.ending is not None:
            yield going | self._style.delta("") | _end(piece.ending)

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._backend.name,
            "system_fingerprint": self._backend.fingerprint,
            "choices": choices,
        }

    def _usage(self, endings: dict[int, Ending]) -> dict[str, int]:
        """A prompt counts once, however many choices it has."""
        prompt = sum(len(request.prompt) for request in self._requests[:: self._body.n or 1])
        tokens = sum(ending.tokens for ending in endings.values())
        return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}


def _end(ending: Ending) -> dict[str, Any]:
    return {"logprobs": None, "finish_reason": ending.finish_reason, "dkv": ending.details}
