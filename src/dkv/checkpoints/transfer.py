"""Requests to a hub that end: every answer has a deadline and a size, and a download a least speed.

The client's own timeouts hold for one read from the socket, so a server that sends a byte now and then is waited for
without end, and its retries multiply them. Here the client's session works in a thread that is left behind when time
is up. `HF_HUB_ETAG_TIMEOUT` and `HF_HUB_DOWNLOAD_TIMEOUT` (10 s each by default) hold for a read; twice as much for an
answer as a whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, BinaryIO, TypeVar

__all__ = ["StalledError", "beginning", "receive", "within"]

T = TypeVar("T")

_SLOWEST = 1024  # bytes a second, over the whole of a window
_TICK = 0.05
_PIECE = 1 << 16


class StalledError(Exception):
    """A server did not answer, or not fast enough; the message says within how many seconds."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns or raises, StalledError if it takes longer.

    The call then goes on in a thread that nobody waits for.
    """
    result: T = _Running(call).result(seconds)
    return result


class _Running:
    """A call in a thread of its own, which does not keep the process alive."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._ended: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
        threading.Thread(target=self._run, args=(call,), daemon=True).start()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self._ended.put((True, call()))
        except BaseException as error:
            self._ended.put((False, error))

    def result(self, seconds: float) -> Any:
        try:
            done, value = self._ended.get(timeout=seconds)
        except Empty:
            raise StalledError(f"no answer within {seconds:g} s") from None
        if not done:
            raise value
        return value


@contextmanager
def _answer(url: str, headers: Mapping[str, str], timeout: float) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Status and content of a GET by the client's session, whichever HTTP library its release uses."""
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]

    if constants.HF_HUB_OFFLINE:  # older clients find out by the session, which they keep for each thread
        raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    session: Any = get_session()
    given = {"headers": {**build_hf_headers(), "Accept-Encoding": "identity", **headers}, "timeout": timeout}
    if callable(getattr(session, "stream", None)):  # httpx; that of requests has a flag of this name
        with session.stream("GET", url, **given) as response:
            hf_raise_for_status(response)
            yield response.status_code, response.iter_bytes()
    else:
        with session.get(url, stream=True, **given) as response:
            hf_raise_for_status(response)
            yield response.status_code, _pieces(response.raw)


def _pieces(raw: Any) -> Iterator[bytes]:
    """The content of a response of requests as it arrives; its own iterators wait for a whole piece, and lose what came
    of one where the connection is cut."""
    read = getattr(raw, "read1", raw.read)
    while piece := read(_PIECE, decode_content=True):
        yield piece


def beginning(url: str, most: int, timeout: float, headers: Mapping[str, str] | None = None) -> bytes:
    """The first bytes of what a URL answers: all of it, or a little more than `most`. timeout: seconds of one read.

    Raises StalledError, and the client's own errors.
    """

    def read() -> bytes:
        found = bytearray()
        with _answer(url, headers or {}, timeout) as (_, content):
            for piece in content:
                found += piece
                if len(found) > most:
                    break
        return bytes(found)

    return within(2 * timeout, read)


def receive(url: str, out: BinaryIO, size: int, timeout: float, report: Callable[[int], object]) -> None:
    """Append to `out`, which holds the first part of a file of `size` bytes, what it lacks. report: is given the number
    of bytes that arrived. After a cut connection it goes on, as long as each attempt brings something.

    Raises StalledError, EOFError for what is longer than `size`, and the client's own errors.
    """
    incoming = _Incoming(url, out, size, timeout, report)
    running = _Running(incoming.run)
    try:
        while True:
            before, window = incoming.arrived, 2 * timeout
            least, until = min(_SLOWEST * window, size - out.tell()), monotonic() + window
            while monotonic() < until:
                try:
                    running.result(_TICK)
                    return
                except StalledError:
                    continue
            if incoming.arrived - before < least:
                raise StalledError(f"{incoming.arrived - before} bytes within {window:g} s")
    finally:
        incoming.stopped = True


class _Incoming:
    """One file on its way."""

    def __init__(self, url: str, out: BinaryIO, size: int, timeout: float, report: Callable[[int], object]) -> None:
        self._url, self._out, self._size, self._timeout, self._report = url, out, size, timeout, report
        self.arrived, self.stopped = 0, False

    def run(self) -> None:
        while (begin := self._out.tell()) < self._size:
            try:
                self._append(begin)
            except EOFError:
                raise
            except Exception:
                if self.stopped or self._out.tell() <= begin:
                    raise
            else:
                if self._out.tell() <= begin:
                    raise ConnectionError("the connection ended early")

    def _append(self, begin: int) -> None:
        headers = {"Range": f"bytes={begin}-"} if begin else {}
        with _answer(self._url, headers, self._timeout) as (status, content):
            if begin and status == 200:  # the server knows no ranges
                self._out.seek(0)
                self._out.truncate()
            for piece in content:
                if self.stopped:
                    return
                self._out.write(piece)
                self.arrived += len(piece)
                self._report(len(piece))
                if self._out.tell() > self._size:
                    raise EOFError("more arrived than the file has")
