"""Servers on the loopback interface that answer as no server should."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

__all__ = ["MISBEHAVIOURS", "misbehaving"]

Answer = Callable[[socket.socket], None]


def _silent(client: socket.socket) -> None:
    while client.recv(4096):
        pass


def _sending(content: bytes, pause: float = 0.0, piece: int = 1 << 16) -> Answer:
    """The content, again and again, a piece at a time."""

    def send(client: socket.socket) -> None:
        client.recv(4096)
        while True:
            for at in range(0, len(content), piece):
                client.sendall(content[at : at + piece])
                time.sleep(pause)

    return send


def _answering(status: str, body: bytes = b"", *headers: str) -> Answer:
    def answer(client: socket.socket) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
        client.recv(4096)
        client.sendall("\r\n".join(lines).encode() + body)

    return answer


def _reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _dripping_body(client: socket.socket) -> None:
    client.recv(4096)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
    while True:
        client.sendall(b" ")
        time.sleep(0.05)


def _endless_body(client: socket.socket) -> None:
    client.recv(4096)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while True:
        client.sendall(b" " * 65536)


MISBEHAVIOURS: dict[str, Answer] = {
    "silent": _silent,
    "dripping status": _sending(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 10_000, 0.05, 1),
    "endless headers": _sending(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 100, 0.01),
    "dripping body": _dripping_body,
    "endless body": _endless_body,
    "page": _answering("200 OK", b"<!doctype html><html>Sign in</html>", "Content-Type: text/html"),
    "empty": _answering("200 OK"),
    "no object": _answering("200 OK", b"[]"),
    "another object": _answering("200 OK", b'{"ok": true}'),
    "names above": _answering(
        "200 OK", b'{"sha": "../../x", "siblings": [{"rfilename": "config.json", "size": 2, "blobId": "../x"}]}'
    ),
    "cut": _answering("200 OK", b"", "Content-Length: 500"),
    "500": _answering("500 Internal Server Error", b"oops"),
    "502": _answering("502 Bad Gateway", b"<html>bad gateway</html>"),
    "503": _answering("503 Service Unavailable", b"", "Retry-After: 3600"),
    "429": _answering("429 Too Many Requests", b"", "Retry-After: 3600"),
    "redirect to itself": _answering("302 Found", b"", "Location: /"),
    "redirect to nowhere": _answering("302 Found", b"", "Location: http://127.0.0.1:1/"),
    "reset": _reset,
    "closed": lambda client: None,
    "no HTTP": _answering("what?"),
    "another protocol": _sending(b"SSH-2.0-OpenSSH_9.6\r\n", 0.05),
}


@contextmanager
def misbehaving(answer: Answer) -> Iterator[str]:
    """The endpoint of a server that treats every connection by `answer`. At the end its connections are cut, so that
    neither its threads nor those of clients that wait for it go on in later tests."""
    serving = list[tuple[socket.socket, threading.Thread]]()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(client: socket.socket) -> None:
            with client, suppress(OSError):
                answer(client)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client = server.accept()[0]
                    one = threading.Thread(target=serve, args=(client,), daemon=True)
                    serving.append((client, one))
                    one.start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for client, one in serving:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            one.join(10)
