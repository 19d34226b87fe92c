"""uvicorn around the application: SIGTERM or Ctrl-C closes the gate, lets requests finish for a while, and ends."""

from __future__ import annotations

import socket
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from dkv.errors import EngineError
from dkv.server.admission import Gate

__all__ = ["KEEP_ALIVE", "Server", "run"]

KEEP_ALIVE = 75
"""Seconds; more than the 60 for which proxies keep their connections, so that none sends into one that closes."""

_LAST_WORDS = 5
"""Seconds for what is sent after the grace."""


class Server(uvicorn.Server):
    """Ends by its gate: a signal closes it, and once nobody is inside, or after `grace` seconds, the server stops. A
    second signal ends the grace. While the gate is closed, the server still answers that it is."""

    def __init__(self, config: uvicorn.Config, gate: Gate, grace: float) -> None:
        super().__init__(config)
        self._gate, self._grace = gate, grace
        self._deadline: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal does. Unlike uvicorn's own, this does not raise it again at the end: that is no failure."""
        left = self._grace if self._deadline is None else 0.0
        self._gate.close()
        self._deadline = time.monotonic() + left

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second: whether to stop."""
        if self._deadline is not None and not self.should_exit:
            late = time.monotonic() >= self._deadline
            if late:
                self._gate.clear()
            self.should_exit = late or not self._gate.inside
        return await super().on_tick(counter)


def run(
    app: FastAPI, listening: socket.socket, gate: Gate, grace: float, access_log: bool, keep_alive: int = KEEP_ALIVE
) -> None:
    """Serve until a signal. grace: seconds that running requests have then; keep_alive: seconds after which an idle
    connection is closed. Raises EngineError where it cannot start; the log has why."""
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_level="info" if access_log else "warning",
        access_log=access_log,
        timeout_graceful_shutdown=_LAST_WORDS,
        timeout_keep_alive=keep_alive,
        server_header=False,
    )
    server = Server(config, gate, grace)
    server.run(sockets=[listening])
    if not server.started:
        raise EngineError("the server did not start")
