"""The embedded model, loaded once, and applications on a real socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import uvicorn
from fastapi import FastAPI

import dkv
from dkv.server import Gate, Limits
from dkv.server.listen import address_of, listen
from dkv.server.uvicorn_server import Server

Serve = Callable[[FastAPI], str]


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that was tuned on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DKV_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def tiny() -> dkv.DiffusionLM:
    """The embedded model in float32."""
    return dkv.load("tiny", device="cpu", dtype="float32")


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """An application on a free port of this machine: its address."""
    with listen("127.0.0.1", 0) as listening:
        config = uvicorn.Config(app, lifespan="on", log_level="error", timeout_graceful_shutdown=2)
        server = Server(config, Gate(Limits()), 0.0)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield address_of(listening)
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve applications until the test ends."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(served(app))
