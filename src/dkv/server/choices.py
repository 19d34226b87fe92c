"""The choices of one answer as the engine makes them: final text, drafts beside it, and each choice's end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from dkv.errors import EngineError
from dkv.server.requests import ModelService, RequestBuilder

if TYPE_CHECKING:
    from dkv.engine import Request, Update
    from dkv.outputs import Generation

__all__ = ["Choice", "Ending", "Piece", "answer"]

_SILENCE = 10.0
"""Seconds; proxies give up on a connection that is silent for a minute or so."""


@dataclass(frozen=True)
class Ending:
    """How a choice ended. finish_reason: "stop" or "length"; tokens: of its text; details: what dkv adds to OpenAI's
    fields; the seed alone where the choice was cut before the engine finished it."""

    finish_reason: str
    tokens: int
    details: dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """What a step did to choice `index`: the final text that it adds, and what may follow all final text (drafts).
    tokens: of the choice's final text so far."""

    index: int
    text: str
    tokens: int = 0
    draft: str | None = None
    ending: Ending | None = None


class Choice:
    """One choice's text so far, cut after `bound` tokens: the canvas may be longer, by part of a block."""

    def __init__(self, index: int, request: Request, backend: RequestBuilder, bound: int) -> None:
        self._index, self._request, self._bound = index, request, bound
        self._backend = backend
        self._ids = list[int]()
        self._text = ""

    def take(self, update: Update) -> Piece:
        """The piece that an update makes. After one with an ending, nothing follows."""
        self._ids += update.ids
        generation = update.generation
        if len(self._ids) > self._bound and (generation is None or generation.stats.new_tokens > self._bound):
            return self._cut()
        self._text += update.text
        if generation is not None:
            ending = _ending(generation)
            return Piece(self._index, update.text, ending.tokens, ending=ending)
        frame = update.frame
        draft = None if frame is None or frame.text is None else frame.text[len(self._text) :]
        return Piece(self._index, update.text, len(self._ids), draft)

    def _cut(self) -> Piece:
        """What fits in, ended there, or at a stop text that begins in it."""
        text, tokens, reason = self._decode(self._bound), self._bound, "length"
        whole = self._decode(len(self._ids))
        at = min((whole.find(stop) for stop in self._request.settings.stop if stop in whole), default=len(text))
        if at < len(text):
            text, reason = text[:at], "stop"
            tokens = next(n for n in range(self._bound + 1) if len(self._decode(n)) >= at)
        ending = Ending(reason, tokens, {"seed": self._request.seed})
        return Piece(self._index, text[len(self._text) :], tokens, ending=ending)

    def _decode(self, count: int) -> str:
        tokenizer = self._backend.lm.tokenizer
        return "" if tokenizer is None else tokenizer.decode(self._ids[:count])


def _ending(generation: Generation) -> Ending:
    stats = generation.stats
    details = {
        "seed": generation.seed,
        "forwards": stats.forwards,
        "rows_computed": stats.rows_computed,
        "rows_total": stats.rows_total,
        "seconds": stats.seconds,
    }
    return Ending(generation.finish_reason, stats.new_tokens, details)


_Found = Piece | Exception


async def answer(backend: ModelService, requests: Sequence[Request], bound: int) -> AsyncGenerator[Piece | None, None]:
    """The pieces of all choices as they come, until all have ended; None after a while without any. Closing it cancels
    what still runs.

    Raises BusyError and EngineError.
    """
    queue: asyncio.Queue[_Found] = asyncio.Queue()
    choices = [Choice(index, request, backend, bound) for index, request in enumerate(requests)]
    tasks = [
        asyncio.create_task(_pump(backend, choice, request, queue))
        for choice, request in zip(choices, requests, strict=True)
    ]
    try:
        running = len(tasks)
        while running:
            found = await _next(queue)
            if isinstance(found, Exception):
                raise found
            running -= found is not None and found.ending is not None
            yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _next(queue: asyncio.Queue[_Found]) -> _Found | None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_SILENCE):  # Python 3.11's wait_for drops a cancellation that meets a result
            return await queue.get()
    return None


async def _pump(backend: ModelService, choice: Choice, request: Request, queue: asyncio.Queue[_Found]) -> None:
    """Put one request's pieces into the queue."""
    try:
        async with aclosing(cast("AsyncGenerator[Update, None]", backend.service.stream(request))) as updates:
            async for update in updates:
                piece = choice.take(update)
                queue.put_nowait(piece)
                if piece.ending is not None:
                    return
        raise EngineError("the engine ended a request without a result")
    except Exception as error:
        queue.put_nowait(error)
