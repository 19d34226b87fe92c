"""Whether a Ray cluster can be reached is known in seconds, without Ray."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import dkv.distributed.ray_cluster
from dkv.distributed.ray_cluster import check_address
from dkv.errors import EngineError


@contextmanager
def listening(answer: bytes | None) -> Iterator[str]:
    """An address that takes one connection, reads, and answers; b"" hangs up, None stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                if answer is None:
                    done.wait(30)
                elif answer:
                    connection.sendall(answer)

        done = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        done.set()
        thread.join()


def closed() -> str:
    """An address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_at_which_nothing_listens_is_refused(scheme: str) -> None:
    address = scheme + closed()
    with pytest.raises(EngineError, match=f"RAY_ADDRESS='{address}' cannot be reached .*refused.*; start Ray there"):
        check_address(address)


def test_an_address_that_never_answers_is_refused_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dkv.distributed.ray_cluster, "_PATIENCE", 0.2)
    began = time.monotonic()
    with listening(None) as address, pytest.raises(EngineError, match=r"nothing answers at RAY_ADDRESS=.*\(0\.2 s\)"):
        check_address(address)
    assert time.monotonic() - began < 20


def test_an_address_that_hangs_up_is_refused() -> None:
    with listening(b"") as address, pytest.raises(EngineError, match="cannot be reached"):
        check_address(address)


def test_an_address_that_answers_as_grpc_does_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))) as address:
        check_address(address)
    monkeypatch.setenv("RAY_USE_TLS", "1")  # then the server's first word is a handshake's
    with listening(b"") as address:
        check_address(address)


@pytest.mark.parametrize("address", ["", "auto", "local", "anyscale://somewhere"])
def test_what_ray_finds_itself_is_left_to_it(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:port", "head:70000", "head:-1", "ray://:1"])
def test_an_address_without_host_or_port_is_refused(address: str) -> None:
    with pytest.raises(EngineError, match=f"RAY_ADDRESS='{address}' must be HOST:PORT"):
        check_address(address)


@pytest.mark.parametrize("address", ["no-such-host.invalid:6379", "a..b:6379"])
def test_a_host_without_an_address_is_one_line(address: str) -> None:
    with pytest.raises(EngineError, match="cannot be reached") as refused:
        check_address(address)
    assert "\n" not in str(refused.value)
