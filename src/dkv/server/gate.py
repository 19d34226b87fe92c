"""Who is being served: how many under each key, until when, and whether more may come in."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dkv.server.api_errors import ApiError
from dkv.server.limits import Limits

__all__ = ["Gate"]


class Gate:
    """Lets requests in up to the limit of their key, ends them at the timeout, and closes for the shutdown."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._clocks: set[asyncio.Timeout] = set()
        self._counts: Counter[int] = Counter()
        self.closed = False

    @property
    def inside(self) -> int:
        """Requests being served."""
        return len(self._clocks)

    def close(self) -> None:
        """Let no more in. Those inside go on."""
        self.closed = True

    def clear(self) -> None:
        """End those inside now."""
        for clock in self._clocks:
            clock.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def admit(self, caller: int) -> AsyncIterator[None]:
        """Count a request under its key while it is served. Raises ApiError: 503 closed, 429 too many, 504 too long."""
        if self.closed:
            raise ApiError(503, "the server is shutting down", code="shutting_down", retry=1)
        most = self._limits.max_per_key
        if most is not None and self._counts[caller] >= most:
            message = f"{most} requests are being answered under this key; wait for one of them"
            raise ApiError(429, message, code="too_many_requests", retry=1)
        clock = asyncio.timeout(self._limits.timeout)
        self._counts[caller] += 1
        self._clocks.add(clock)
        try:
            async with clock:
                yield
        except TimeoutError:
            if not clock.expired():
                raise
            raise self._ended() from None
        finally:
            self._counts[caller] -= 1
            self._clocks.discard(clock)

    def _ended(self) -> ApiError:
        if self.closed:
            return ApiError(503, "the server shut down before the answer was done", code="shutting_down", retry=1)
        message = f"the answer took longer than {self._limits.timeout:g} s; ask for fewer tokens or steps"
        return ApiError(504, message, code="timeout")
