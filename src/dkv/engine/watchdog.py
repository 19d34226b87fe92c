"""A bound on the time of a call into other people's code: a loop without an end must not hold the engine for ever.

The call runs on the engine's own thread; when its time is over, another thread raises an exception in it. Python does
that between two instructions of its own, so a loop written in Python ends; one call that stays inside C code (a long
`time.sleep`, an endless loop in an extension, a kernel that never returns) ends only when that code comes back.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["OvertimeError", "bounded"]

T = TypeVar("T")

_AGAIN = 1.0
"""Seconds until it is raised once more, in code that caught it and went on."""


class OvertimeError(BaseException):
    """Raised in a call whose time is over. No Exception, so that `except Exception` in a loop does not swallow it."""


def bounded(call: Callable[[], T], seconds: float | None) -> T:
    """The result of `call`, which may take so many seconds, None = any time. Raises OvertimeError."""
    if seconds is None:
        return call()
    alarm = _Alarm(threading.get_ident(), seconds)
    try:
        try:
            return call()
        finally:
            alarm.stop()
    except OvertimeError:
        alarm.stop()  # it may have been raised in the stopping itself; the next one is a second away
        raise


class _Alarm:
    """Raises OvertimeError in a thread after a time, until it is stopped."""

    def __init__(self, thread: int, seconds: float) -> None:
        self._thread, self._seconds = thread, seconds
        self._over, self._lock, self._rang = threading.Event(), threading.Lock(), False
        threading.Thread(target=self._wait, name="dkv-watch", daemon=True).start()

    def stop(self) -> None:
        """No more of it, nor of what was raised and has not arrived."""
        with self._lock:
            self._over.set()
        if self._rang:
            _raise_in(self._thread, None)

    def _wait(self) -> None:
        seconds = self._seconds
        while not self._over.wait(seconds):
            with self._lock:
                if not self._over.is_set():
                    self._rang = True
                    _raise_in(self._thread, OvertimeError)
            seconds = _AGAIN


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Raise it in a thread, None = take back what has not arrived. Other Pythons than CPython have no way to."""
    raising = getattr(getattr(ctypes, "pythonapi", None), "PyThreadState_SetAsyncExc", None)
    if raising is not None:
        raising(ctypes.c_ulong(thread), None if kind is None else ctypes.py_object(kind))
