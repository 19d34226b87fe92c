"""The engine on a thread of its own, for many callers on one asyncio event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from dkv.core.values import checked_keywords
from dkv.engine.engine import Engine
from dkv.engine.request_errors import failure, where_of
from dkv.engine.sequence import Request, Status, Update
from dkv.errors import BusyError, DkvError, EngineError
from dkv.outputs import Generation

if TYPE_CHECKING:
    from dkv.engine.lockstep import Leader

__all__ = ["Service"]

T = TypeVar("T")

_log = logging.getLogger("dkv.engine")
_IDLE = 10.0
"""Seconds without a request, after which memory is given back."""


class Service:
    """Steps an engine as long as there is something to do. `async with service:` starts and stops its thread.

    failed: what the engine's step raised, if it did; then every request ends with EngineError.
    """

    @checked_keywords
    def __init__(self, engine: Engine | Leader) -> None:
        self._engine = engine
        self._orders: deque[Callable[[], object]] = deque()
        self._wake = threading.Condition()
        self._inboxes: dict[int, asyncio.Queue[Update | None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = self._draining = False
        self._status = engine.status()
        self._quiet = asyncio.Event()
        self.failed: BaseException | None = None

    async def __aenter__(self) -> Service:
        self._loop = asyncio.get_running_loop()
        self._quiet.set()
        self._stopping = self._draining = False
        self._thread = threading.Thread(target=self._work, name="dkv-engine", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._end_all()

    async def stream(self, request: Request) -> AsyncIterator[Update]:
        """The updates of a request that tell something, as they come, the last with its generation. Closing the
        iterator, or cancelling who waits for it, drops the request before the next step.

        Raises what `Engine.add` does, what the request failed with (RequestError, mostly), and EngineError where the
        engine has stopped.
        """
        if self._draining:
            raise BusyError("the engine is shutting down; try again elsewhere or later")
        inbox: asyncio.Queue[Update | None] = asyncio.Queue()
        request_id = await self._admit(request, inbox)
        try:
            while True:
                update = await inbox.get()
                if update is None:
                    raise self._stopped()
                if update.error is not None:
                    raise update.error
                yield update
                if update.generation is not None:
                    return
        finally:
            self._forget(request_id)

    async def generate(self, request: Request) -> Generation:
        """A request's result."""
        updates = self.stream(request)
        try:
            async for update in updates:
                if update.generation is not None:
                    return update.generation
        finally:
            await updates.aclose()  # type: ignore[attr-defined]
        raise self._stopped()

    async def drain(self) -> None:
        """Refuse new requests, and wait until none is left."""
        self._draining = True
        await self._quiet.wait()

    def status(self) -> Status:
        """Where the engine stood after its last step or order."""
        return self._status

    def _stopped(self) -> EngineError:
        reason = f": {type(self.failed).__name__}: {self.failed}" if self.failed is not None else ""
        return EngineError(f"the engine has stopped{reason}")

    async def _admit(self, request: Request, inbox: asyncio.Queue[Update | None]) -> int:
        """Have the engine take the request in, its updates going to inbox."""
        if self._loop is None or self._stopping or self.failed is not None:
            raise self._stopped()
        admitted: asyncio.Future[int] = self._loop.create_future()
        self._quiet.clear()
        self._order(lambda: self._take_in(request, inbox, admitted))
        try:
            return await asyncio.shield(admitted)
        except asyncio.CancelledError:  # the caller left while the request was being taken in
            admitted.add_done_callback(lambda done: None if done.exception() else self._forget(done.result()))
            raise

    def _take_in(self, request: Request, inbox: asyncio.Queue[Update | None], admitted: asyncio.Future[int]) -> None:
        """On the engine's thread."""
        try:
            number = self._engine.add(request)
        except BaseException as error:  # this thread gets none from the user
            self._tell(_fail, admitted, failure("the request", error))
            return
        self._tell(self._welcome, number, inbox, admitted)

    def _welcome(self, number: int, inbox: asyncio.Queue[Update | None], admitted: asyncio.Future[int]) -> None:
        self._inboxes[number] = inbox
        admitted.set_result(number)

    def _forget(self, request_id: int) -> None:
        """Drop a request wherever it stands."""
        if self._inboxes.pop(request_id, None) is not None:
            self._order(lambda: self._engine.cancel(request_id))

    def _order(self, order: Callable[[], object]) -> None:
        """Have something done on the engine's thread, before its next step."""
        with self._wake:
            self._orders.append(order)
            self._wake.notify()

    def _work(self) -> None:
        """The engine's thread."""
        try:
            while self._wait():
                while self._orders:
                    self._carry_out(self._orders.popleft())
                updates = self._engine.step()
                self._status = self._engine.status()
                self._tell(self._deliver, updates, not (self._status.active or self._status.waiting))
        except BaseException as error:
            self.failed = error
        self._tell(self._end_all)

    def _carry_out(self, order: Callable[[], object]) -> None:
        """Do what was ordered. One that fails harms nobody else, and is logged; a dead device ends the next step."""
        try:
            order()
        except Exception as error:
            _log.error("an order to the engine failed: %s\n%s", type(error).__name__, where_of(error))

    def _wait(self) -> bool:
        """Sleep until there is something to do; False when it is time to stop. What is free is given back to the system
        once nothing came for a while."""
        with self._wake:
            idle = not self._wake.wait_for(self._is_wanted, _IDLE)
        if idle:
            self._engine.release_memory()
        with self._wake:
            self._wake.wait_for(self._is_wanted)
            return not self._stopping

    def _is_wanted(self) -> bool:
        return bool(self._stopping or self._orders or self._status.active or self._status.waiting)

    def _tell(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function on the event loop; one that is closed has nobody left to tell."""
        with suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function, *arguments)

    def _deliver(self, updates: list[Update], idle: bool) -> None:
        for update in updates:
            inbox = self._inboxes.get(update.request_id)
            if inbox is not None and update.has_output:
                inbox.put_nowait(update)
                if update.last:
                    del self._inboxes[update.request_id]
        if idle and not self._orders:
            self._quiet.set()

    def _end_all(self) -> None:
        for inbox in self._inboxes.values():
            inbox.put_nowait(None)
        self._inboxes.clear()
        self._quiet.set()


def _fail(future: asyncio.Future[int], error: DkvError) -> None:
    if not future.done():
        future.set_exception(error)
