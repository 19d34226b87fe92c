"""Who gets in, how much they may send and how long they may stay; and that leaving frees the place at once."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import httpx
import pytest

import dkv
from dkv.server import Gate, Limits
from tests.support.fake_service import FakeService, app_of, ask, client_of, error_of, events_of, post
from tests.support.server_fixtures import Serve

BODY = {"model": "fake", "prompt": "Hi", "max_tokens": 16}


def eventually(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether something comes true in time."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(500, 200), (501, 413), (4000, 413), (100_000, 413)])
def test_a_body_has_a_limit_also_without_a_declared_length(
    lm: dkv.DiffusionLM, chunked: bool, size: int, status: int
) -> None:
    body = b'{"model":"fake","prompt":"Hi","max_tokens":16}'.ljust(size)

    async def pieces() -> AsyncIterator[bytes]:
        for first in range(0, size, 100):
            yield body[first : first + 100]

    app = app_of(FakeService(lm), lm, Limits(body=500))
    headers = {"content-type": "application/json"}
    response = ask(app, "POST", "/v1/completions", content=pieces() if chunked else body, headers=headers)
    assert ("content-length" in response.request.headers) is not chunked
    assert response.status_code == status
    if status == 413:
        assert error_of(response)["code"] == "request_too_large"


@pytest.mark.parametrize("length", ["-1", "1e9", "9" * 30, "٣"])
def test_a_declared_length_that_is_none_counts_for_nothing(lm: dkv.DiffusionLM, length: str) -> None:
    app = app_of(FakeService(lm), lm, Limits(body=500))
    headers = {"content-type": "application/json", "content-length": length.encode()}
    response = ask(app, "POST", "/v1/completions", content=b" " * 501, headers=headers)
    assert response.status_code == 413


def test_requests_at_once_are_counted_by_key(lm: dkv.DiffusionLM) -> None:
    service = FakeService(lm, stall=1)
    app = app_of(service, lm, Limits(max_per_key=2), keys=("one", "two"))

    async def run() -> list[httpx.Response]:
        async with client_of(app) as client:

            def send(key: str) -> asyncio.Task[httpx.Response]:
                headers = {"authorization": f"Bearer {key}"}
                return asyncio.create_task(client.post("/v1/completions", json=BODY, headers=headers))

            held = [send("one"), send("one"), send("two")]
            while service.running < 3:
                await asyncio.sleep(0.01)
            refused = await send("one")
            held[0].cancel()
            while service.running == 3:
                await asyncio.sleep(0.01)
            again = send("one")
            while service.running < 3:
                await asyncio.sleep(0.01)
            for task in (*held, again):
                task.cancel()
            return [refused]

    (refused,) = asyncio.run(run())
    assert (refused.status_code, error_of(refused)["code"]) == (429, "too_many_requests")
    assert error_of(refused)["type"] == "rate_limit_error"
    assert refused.headers["retry-after"] == "1"
    assert service.running == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_ends(lm: dkv.DiffusionLM, stream: bool) -> None:
    service = FakeService(lm, stall=2)
    response = post(app_of(service, lm, Limits(timeout=0.2, default_tokens=16)), "completions", {"stream": stream})
    if stream:
        *events, last = events_of(response)
        assert "".join(c["text"] for event in events for c in event["choices"]) == "He"
        assert last["error"]["code"] == "timeout"
    else:
        assert (response.status_code, error_of(response)["code"]) == (504, "timeout")
        assert response.headers["x-should-retry"] == "false"
    assert service.running == 0


def test_a_closed_gate_refuses_and_says_so_at_ready(lm: dkv.DiffusionLM) -> None:
    gate = Gate(Limits())
    app = app_of(FakeService(lm), lm, gate=gate)
    assert ask(app, "GET", "/ready").json() == {"status": "ready"}
    gate.close()
    for response in (ask(app, "GET", "/ready"), post(app, "completions", {})):
        assert (response.status_code, error_of(response)["code"]) == (503, "shutting_down")
    assert ask(app, "GET", "/health").json() == {"status": "alive"}


def test_a_failed_engine_is_not_ready(lm: dkv.DiffusionLM) -> None:
    service = FakeService(lm)
    service.failed = RuntimeError("out of memory")
    response = ask(app_of(service, lm), "GET", "/ready")
    assert (response.status_code, error_of(response)["code"]) == (503, "engine_failed")


@pytest.mark.parametrize("stream", [False, True])
def test_clearing_the_gate_ends_those_inside(lm: dkv.DiffusionLM, stream: bool) -> None:
    gate, service = Gate(Limits()), FakeService(lm, stall=1)
    app = app_of(service, lm, gate=gate)

    async def run() -> httpx.Response:
        async with client_of(app) as client:
            asked = asyncio.create_task(client.post("/v1/completions", json={**BODY, "stream": stream}))
            while not service.running:
                await asyncio.sleep(0.01)
            gate.close()
            await asyncio.sleep(0.05)
            assert (service.running, gate.inside) == (1, 1)
            gate.clear()
            return await asked

    response = asyncio.run(run())
    error = events_of(response)[-1]["error"] if stream else error_of(response)
    assert error["code"] == "shutting_down"
    assert response.status_code == (200 if stream else 503)
    assert (service.running, gate.inside) == (0, 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_leaves_frees_its_place(lm: dkv.DiffusionLM, serve: Serve, stream: bool, n: int) -> None:
    service, gate = FakeService(lm, stall=1), Gate(Limits())
    address = urlsplit(serve(app_of(service, lm, gate=gate)))
    connection = http.client.HTTPConnection(str(address.hostname), address.port)
    body = f'{{"model":"fake","prompt":"Hi","max_tokens":16,"n":{n},"stream":{str(stream).lower()}}}'
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
    assert eventually(lambda: service.running == n)
    if stream:
        assert connection.getresponse().readline().startswith(b"data: ")
    time.sleep(0.05)
    assert service.running == n
    connection.close()
    if connection.sock is not None:
        connection.sock.close()
    assert eventually(lambda: service.running == 0, 2.0)
    assert service.dropped == n
    assert eventually(lambda: gate.inside == 0)


def test_a_client_that_leaves_while_sending_is_forgotten(lm: dkv.DiffusionLM, serve: Serve) -> None:
    service, gate = FakeService(lm), Gate(Limits())
    address = urlsplit(serve(app_of(service, lm, gate=gate)))
    connection = http.client.HTTPConnection(str(address.hostname), address.port)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("content-length", "100")
    connection.endheaders(b"{")
    assert eventually(lambda: gate.inside == 1)
    connection.close()
    assert eventually(lambda: gate.inside == 0)
    assert service.requests == []


def test_a_client_that_sends_nothing_meets_the_timeout(lm: dkv.DiffusionLM, serve: Serve) -> None:
    address = urlsplit(serve(app_of(FakeService(lm), lm, Limits(timeout=0.3))))
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("content-length", "100")
    connection.endheaders(b"{")
    assert connection.getresponse().status == 504
    connection.close()
