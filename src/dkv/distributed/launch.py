"""Start the ranks of one model on this machine, wait for the first of them, and end them all.

Each rank is a fresh process in a session of its own, so that Ctrl-C reaches them through here alone: the first rank is
asked to end, and whatever it does, nothing is left behind. A rank also ends by itself once this process is gone.
"""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, TypeVar

from dkv.errors import RankError, SettingError

__all__ = ["ASKS", "RankOutcome", "RankTask", "launch"]

T = TypeVar("T")

ASKS = (signal.SIGINT, signal.SIGTERM)
"""How a process is asked to end."""

_POLL = 0.2
"""Seconds between two looks at whether somebody asked us to end."""
_GRACE = 3.0
"""Seconds that the other ranks have to tell what they saw once one has failed: it may be the real cause."""


@dataclass(frozen=True)
class RankTask:
    """What a rank is told: who it is, where the ranks meet, and what to call. pickled: (function, arguments)."""

    rank: int
    ranks: int
    rendezvous: str
    pickled: bytes


@dataclass(frozen=True)
class RankOutcome:
    """What a rank tells: what its call returned (only the first rank's is kept), or what it raised."""

    value: Any = None
    error: BaseException | None = None


def launch(ranks: int, work: Callable[..., T], *arguments: Any, patience: float = 5.0) -> T:
    """Call work(*arguments) in `ranks` processes that form a process group; what the first of them returns.

    Only the first one writes to this process's output. work, arguments and result must be picklable, and work's module
    importable. patience: seconds between SIGINT or SIGTERM, which the first rank is sent, and the end of all. Raises
    what a rank raised, and RankError where one died.
    """
    if type(ranks) is not int or ranks < 1:
        raise SettingError(f"tensor_parallel={ranks!r} must be a whole number of at least 1")
    pickled = pickle.dumps((work, arguments))
    with tempfile.TemporaryDirectory(prefix="dkv-ranks-") as directory, ExitStack() as stack:
        watch = _Watch([], patience)
        with _signals_wait():
            stack.enter_context(watch.signals())
            for rank in range(ranks):
                watch.ranks.append(_start(rank, ranks, Path(directory), pickled))
                stack.callback(watch.ranks[-1].end)
        value: T = watch.result()
    return value


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Hold signals back until the ranks can be told; a rank begins with them held back, too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass
class _Rank:
    """A rank under way."""

    number: int
    process: subprocess.Popen[bytes]
    link: Connection
    log: Path

    def outcome(self) -> RankOutcome | None:
        """What it told, or None where it died instead."""
        try:
            told = self.link.recv()
        except (EOFError, OSError):
            return None
        return told if isinstance(told, RankOutcome) else None

    def death(self, ranks: int) -> RankError:
        """How it died, in a line."""
        try:
            code = self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            code = 1
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        said = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return RankError(f"tensor_parallel={ranks}: rank {self.number} {how}" + (f" ({said[-1]})" if said else ""))

    def end(self) -> None:
        """Kill it, if it is still there."""
        self.process.kill()
        self.process.wait()
        self.link.close()


def _start(rank: int, ranks: int, directory: Path, pickled: bytes) -> _Rank:
    ours, theirs = Pipe()
    log = directory / f"rank-{rank}"
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
            [sys.executable, "-m", "dkv.distributed.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=file if rank else None,
            stderr=file if rank else None,
            start_new_session=True,
        )
    theirs.close()
    with suppress(OSError):  # it died at once, which its silence will tell
        ours.send(sys.path)
        ours.send(RankTask(rank, ranks, str(directory / "rendezvous"), pickled))
    return _Rank(rank, process, ours, log)


@dataclass
class _Watch:
    """Waits for the first rank to return, for any to fail, or for somebody to ask us to end."""

    ranks: list[_Rank]
    patience: float
    asked: list[tuple[int, float]] = field(default_factory=list)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Pass SIGINT and SIGTERM on to the first rank; a second one ends all at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in ASKS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        self.asked.append((number, time.monotonic()))
        self.ranks[0].process.send_signal(number)

    def result(self) -> Any:
        """What the first rank returns. Raises what the ranks raised."""
        waiting = list(self.ranks)
        failed: dict[int, RankError | None] = {}
        since = 0.0
        while waiting and not (failed and time.monotonic() - since > _GRACE):
            self._lose_patience()
            ready = wait([one.link for one in waiting], _POLL)
            for one in [one for one in waiting if one.link in ready]:
                waiting.remove(one)
                outcome = one.outcome()
                error = None if outcome is None else outcome.error
                if outcome is not None and error is None:
                    if one.number == 0:
                        return outcome.value
                    continue
                if error is not None and not isinstance(error, RankError):
                    self._lose_patience(now=True)
                    raise error
                failed, since = {**failed, one.number: error}, since or time.monotonic()
        self._lose_patience(now=True)
        raise self._cause(failed)

    def _lose_patience(self, now: bool = False) -> None:
        """Raise what a process that was asked to end raises, once the ranks have had their time for it."""
        if self.asked and (now or len(self.asked) > 1 or time.monotonic() - self.asked[0][1] > self.patience):
            number = self.asked[0][0]
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def _cause(self, failed: dict[int, RankError | None]) -> BaseException:
        """How a rank died, else that another found it lost."""
        died = [one.death(len(self.ranks)) for one in self.ranks if one.number in failed and not failed[one.number]]
        return (died + [error for error in failed.values() if error])[0]
