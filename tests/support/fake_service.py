"""An engine's service that does as it is told, and ways to call an application without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
from fastapi import FastAPI

import dkv
from dkv.engine import Request, Service, Status, Update
from dkv.outputs import Frame, Generation, Stats
from dkv.server import Gate, Limits, build


class FakeService:
    """Answers every request with `text`, a token an update, its bytes in [0, 256). Records what became of requests.

    stall: after how many updates to wait for ever; error: (after how many updates, what to raise); slow: seconds before
    each update; drafts: the text of each frame; lag: tokens whose text is held back, as for a stop text.
    """

    def __init__(
        self,
        lm: dkv.DiffusionLM,
        text: str = "Hello, world",
        stall: int | None = None,
        error: tuple[int, Exception] | None = None,
        slow: float = 0.0,
        drafts: list[str] | None = None,
        limit: int | None = None,
        lag: int = 0,
    ) -> None:
        assert lm.tokenizer is not None
        self._tokenizer, self._text, self._limit = lm.tokenizer, text, limit
        self._stall, self._error, self._slow, self._drafts, self._lag = stall, error, slow, drafts, lag
        self.requests: list[Request] = []
        self.running = self.finished = self.dropped = 0
        self.entered = 0
        self.failed: BaseException | None = None

    async def __aenter__(self) -> FakeService:
        self.entered += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self.entered -= 1

    async def stream(self, request: Request) -> AsyncIterator[Update]:
        """The updates of the answer."""
        self.requests.append(request)
        self.running += 1
        try:
            ids = self._tokenizer.encode_bare(self._text)[: request.settings.gen_length]
            for number, update in enumerate(self._updates(request, ids)):
                if number == self._stall:
                    await asyncio.Event().wait()
                if self._error is not None and number == self._error[0]:
                    raise self._error[1]
                await asyncio.sleep(self._slow)
                yield update
            self.finished += 1
        finally:
            self.running -= 1
            self.dropped = len(self.requests) - self.running - self.finished

    def _updates(self, request: Request, ids: list[int]) -> list[Update]:
        updates, sent = [], ""
        for number in range(len(ids)):
            text = self._tokenizer.decode(ids[: max(0, number + 1 - self._lag)])
            frame = None
            if self._drafts is not None and request.frames:
                frame = Frame(number, ids, [], [], [], 0, self._drafts[number % len(self._drafts)])
            updates.append(Update(0, (ids[number],), text[len(sent) :], frame))
            sent = text
        whole = self._tokenizer.decode(ids)
        return [*updates, Update(0, (), whole[len(sent) :], None, self._generation(request, ids, whole))]

    def _generation(self, request: Request, ids: list[int], text: str) -> Generation:
        full = len(ids) == request.settings.gen_length
        stats = Stats(len(ids), 10.0, 40, len(ids), 0.5)
        reason = "length" if full else "stop"
        return Generation(list(request.prompt), ids, text, reason, stats, request.settings, request.seed, "0")

    def status(self) -> Status:
        """Figures that differ from each other."""
        return Status(1, 2, 3, self._limit, 4, 5, 6, 7, 8.5, 20, 9, 1.25)


def app_of(
    service: FakeService,
    lm: dkv.DiffusionLM,
    limits: Limits | None = None,
    keys: tuple[str, ...] = (),
    gate: Gate | None = None,
) -> FastAPI:
    """The application over a fake service; the model is called "fake"."""
    limits = limits or Limits(default_tokens=32)
    return build(cast(Service, service), lm, limits, keys, name="fake", gate=gate)


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that has been started."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        yield client


def ask(app: FastAPI, method: str, path: str, **more: Any) -> httpx.Response:
    """One request to an application."""

    async def call() -> httpx.Response:
        async with client_of(app) as client:
            return await client.request(method, path, **more)

    return asyncio.run(call())


def post(app: FastAPI, path: str, body: Any, **more: Any) -> httpx.Response:
    """One body to "chat/completions" or "completions"; model and prompt are filled in."""
    if isinstance(body, dict):
        prompt = {"messages": [{"role": "user", "content": "Hi"}]} if "chat" in path else {"prompt": "Hi"}
        body = {"model": "fake", **prompt, **body}
    return ask(app, "POST", f"/v1/{path}", json=body, **more)


def events_of(response: httpx.Response) -> list[Any]:
    """The data of a stream's events; the last one is "[DONE]" where it ended well."""
    assert response.headers["content-type"].startswith("text/event-stream")
    found = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: ")]
    return [data if data == "[DONE]" else json.loads(data) for data in found]


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error in an answer, which has nothing else and all of OpenAI's fields."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "\n" not in body["error"]["message"]
    return dict(body["error"])
