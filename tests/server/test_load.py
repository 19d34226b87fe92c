"""Many clients at once, some of which leave in the middle: each finished answer is the one that it would get alone."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import openai
import pytest

import dkv
from dkv.engine import Engine, Service
from dkv.server import Limits, build
from tests.support.bodies import random_body
from tests.support.server_fixtures import Serve

DISTINCT = 40
"""Requests repeat, so that fewer must be run alone."""


def bodies(count: int) -> list[dict[str, Any]]:
    """Requests of all kinds, some the same."""
    noise = random.Random(5)
    kinds = [{**random_body(random.Random(k)), "prompt": f"{k}+{k * k}="} for k in range(min(count, DISTINCT))]
    return [noise.choice(kinds) for _ in range(count)]


async def one(client: openai.AsyncOpenAI, body: dict[str, Any], leaves: bool) -> str | None:
    """The text of a streamed answer; None for a client that left before its end."""
    text = ""
    extra = body["extra_body"] | ({"draft": True} if leaves else {})  # so that there is something to leave at
    async with await client.completions.create(model="tiny", stream=True, **body | {"extra_body": extra}) as stream:
        async for chunk in stream:
            if leaves and "draft" in (getattr(chunk.choices[0], "dkv", None) or {}):
                return None
            text += chunk.choices[0].text
    return text


async def load(address: str, asked: list[dict[str, Any]], clients: int) -> list[str | None]:
    """All answers, in the order of the requests; every tenth client leaves."""
    room = asyncio.Semaphore(clients)
    async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=600) as client:

        async def ask(number: int, body: dict[str, Any]) -> str | None:
            async with room:
                return await one(client, body, number % 10 == 9)

        return await asyncio.gather(*(ask(number, body) for number, body in enumerate(asked)))


@pytest.mark.parametrize(("count", "clients"), [(20, 8), pytest.param(500, 64, marks=pytest.mark.slow)])
def test_no_answer_is_wrong_and_no_place_is_lost(tiny: dkv.DiffusionLM, serve: Serve, count: int, clients: int) -> None:
    service = Service(Engine(tiny, memory=50_000_000, active=16))
    address, asked = serve(build(service, tiny, Limits())), bodies(count)
    answers = asyncio.run(load(address, asked, clients))
    assert [answer is None for answer in answers].count(True) >= count // 20
    alone = dict[str, str]()
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=600)
    for body, answer in zip(asked, answers, strict=True):
        if str(body) not in alone:
            alone[str(body)] = client.completions.create(model="tiny", **body).choices[0].text
        assert answer in (None, alone[str(body)]), body
    client.close()
    status = service.status()
    assert (status.active, status.waiting, status.memory_used) == (0, 0, 0)
    assert status.requests_started == status.requests_finished + status.requests_cancelled == count + len(alone)
