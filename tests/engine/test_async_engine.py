"""The engine's thread: streams for asyncio callers, which may leave at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

import dkv
from tests.support.engine_runs import alone, same


def run(lm: dkv.DiffusionLM, work: Callable[[dkv.Service], Awaitable[None]], **limits: int) -> None:
    async def main() -> None:
        async with dkv.Service(dkv.Engine(lm, **limits)) as service:
            await asyncio.wait_for(work(service), 60)

    asyncio.run(main())


async def settled(service: dkv.Service) -> dkv.Status:
    """The status once the orders given so far are carried out."""
    for _ in range(200):
        status = service.status()
        if not status.active and not status.waiting:
            return status
        await asyncio.sleep(0.01)
    return service.status()


def test_many_callers_each_get_their_own(lm: dkv.DiffusionLM) -> None:
    requests = [lm.request([n, n + 1], gen_length=6, seed=n, temperature=0.5, cache="dkv-decode") for n in range(12)]

    async def work(service: dkv.Service) -> None:
        async def listen(request: dkv.Request) -> tuple[str, dkv.Generation]:
            told, result = "", None
            async for update in service.stream(request):
                assert update.has_output
                told, result = told + update.text, update.generation
            assert result is not None
            return told, result

        for request, (told, result) in zip(requests, await asyncio.gather(*map(listen, requests)), strict=True):
            assert same(result, alone(lm, request))
            assert told == result.text
        assert (await settled(service)).memory_used == 0

    run(lm, work, active=5)


def test_generate(lm: dkv.DiffusionLM) -> None:
    request = lm.request([1, 2], gen_length=6, seed=1)

    async def work(service: dkv.Service) -> None:
        assert same(await service.generate(request), alone(lm, request))

    run(lm, work)


def test_leaving_frees_the_place(lm: dkv.DiffusionLM) -> None:
    """By closing the iterator, and by cancelling the task that listens."""
    request = lm.request([1], gen_length=64, stop_at_eos=False, frames=True)

    async def work(service: dkv.Service) -> None:
        stream = service.stream(request)
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        assert (await settled(service)).requests_cancelled == 1
        task = asyncio.create_task(service.generate(request))
        while not service.status().active:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        status = await settled(service)
        assert (status.requests_cancelled, status.memory_used) == (2, 0)

    run(lm, work)


def test_errors_reach_the_caller(lm: dkv.DiffusionLM) -> None:
    async def work(service: dkv.Service) -> None:
        long = asyncio.create_task(service.generate(lm.request([1], gen_length=60, stop_at_eos=False)))
        while not service.status().active:
            await asyncio.sleep(0)
        waits = asyncio.create_task(service.generate(lm.request([1], gen_length=4)))
        while not service.status().waiting:
            await asyncio.sleep(0)
        with pytest.raises(dkv.BusyError, match="waiting already"):
            await service.generate(lm.request([1], gen_length=4))
        await asyncio.gather(long, waits)

    run(lm, work, active=1, waiting=1)

    async def too_large(service: dkv.Service) -> None:
        with pytest.raises(dkv.SettingError, match="memory=10 bytes"):
            await service.generate(lm.request([1], gen_length=4))

    run(lm, too_large, memory=10)


def test_draining_refuses_and_waits(lm: dkv.DiffusionLM) -> None:
    async def work(service: dkv.Service) -> None:
        task = asyncio.create_task(service.generate(lm.request([1], gen_length=30, stop_at_eos=False)))
        while not service.status().active:
            await asyncio.sleep(0)
        await service.drain()
        assert task.done() or (await task)
        with pytest.raises(dkv.BusyError, match="shutting down"):
            await service.generate(lm.request([1], gen_length=4))

    run(lm, work)


def test_a_failing_step_ends_every_stream(lm: dkv.DiffusionLM, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = dkv.Engine(lm)

    def fails() -> list[dkv.Update]:
        raise MemoryError("no room")

    monkeypatch.setattr(engine, "step", fails)

    async def main() -> None:
        async with dkv.Service(engine) as service:
            with pytest.raises(dkv.EngineError, match="the engine has stopped: MemoryError: no room"):
                await asyncio.wait_for(service.generate(lm.request([1], gen_length=4)), 20)
            assert isinstance(service.failed, MemoryError)
            with pytest.raises(dkv.EngineError, match="stopped"):
                await service.generate(lm.request([1], gen_length=4))

    asyncio.run(main())


def test_stopping_ends_what_is_under_way(lm: dkv.DiffusionLM) -> None:
    async def main() -> None:
        async with dkv.Service(dkv.Engine(lm)) as service:
            task = asyncio.create_task(service.generate(lm.request([1], gen_length=80, stop_at_eos=False)))
            while not service.status().active:
                await asyncio.sleep(0)
        with pytest.raises(dkv.EngineError, match="stopped"):
            await asyncio.wait_for(task, 20)

    asyncio.run(main())
