"""What can go wrong with one request, and how it is told: the others go on, so nothing here may reach them."""

from __future__ import annotations

import re
import threading
import traceback

import torch

from dkv.engine.watchdog import OvertimeError
from dkv.errors import DkvError, RankError, RequestError

__all__ = ["failure", "is_memory", "must_stop", "one_line", "where_of"]

_TEXT = 200
_MEMORY = re.compile(r"out of memory|allocate memory|DefaultCPUAllocator|bad_alloc", re.IGNORECASE)


def must_stop(error: BaseException, device: torch.device) -> bool:
    """Whether no request can go on: the user wants to stop, another rank is gone, or the device is dead."""
    if isinstance(error, KeyboardInterrupt):  # other threads get none from the user
        return threading.current_thread() is threading.main_thread()
    if isinstance(error, RankError):
        return True
    if device.type == "cpu":
        return False
    try:
        return float(torch.ones(1, device=device).sum().item()) != 1.0
    except Exception as dead:
        return not is_memory(dead)


def is_memory(error: BaseException) -> bool:
    """Whether it says that there is no memory left."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_MEMORY.search(str(error)))


def failure(what: str, error: BaseException) -> DkvError:
    """Why a request ends, from what was raised. Errors of dkv's own stay as they are; none keeps its frames alive."""
    where = where_of(error)
    error.with_traceback(None)
    if isinstance(error, DkvError):
        error.__cause__ = error.__context__ = None
        return error
    if isinstance(error, OvertimeError):
        return RequestError(f"{what} took longer than it may, and was interrupted", where=where)
    kind = type(error).__name__
    return RequestError(f"{what} failed ({kind}: {one_line(error)})", f"{what} failed ({kind})", where)


def one_line(error: BaseException) -> str:
    """What an error says, in one line that is not too long."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # its own __str__ raises
        text = "no text"
    return text if len(text) <= _TEXT else text[: _TEXT - 3] + "..."


def where_of(error: BaseException) -> str:
    """The frames that an error was raised in, without their values."""
    return "".join(traceback.format_tb(error.__traceback__))
