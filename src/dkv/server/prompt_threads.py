"""Threads that encode prompts: few, so that many large ones at once leave the machine usable, and soon free when nobody
waits for the result any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["PromptThreads"]

T = TypeVar("T")
_THREADS = 4


class _AbandonedError(Exception):
    """Nobody waits for the work any more."""


class PromptThreads:
    """Runs work beside the event loop. The work calls what it is given again and again, which raises once the task that
    asked for it was cancelled: its client left, or the server shuts down. That task does not wait."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, "dkv-prompt")

    async def run(self, work: Callable[[Callable[[], None]], T]) -> T:
        """What the work returns. Raises what it raises."""
        gone = threading.Event()

        def attend() -> None:
            if gone.is_set():
                raise _AbandonedError

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, attend)
        finally:
            gone.set()
