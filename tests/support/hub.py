"""A hub on the loopback interface that serves one repository, and misbehaves on request."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["COMMIT", "REPO", "FakeHub", "fake_hub"]

REPO, COMMIT = "some-lab/Tiny-LLaDA", "c0ffee" * 6 + "c0de"


@dataclass
class FakeHub:
    """files: what the repository holds. cut: how many bytes of a file to send before the connection breaks, once.
    damaged: files whose content differs from their checksum. status: answer of the API, with its error code.
    elsewhere: endpoint of another one that has the weights, as the hub sends its clients to a content network.
    silent: files of which nothing comes after the header; dripping: of which then a byte comes now and then.
    log: requests so far, `METHOD path [range]`; tokens: the credentials that came with them."""

    files: dict[str, bytes]
    cut: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    dripping: set[str] = field(default_factory=set)
    status: tuple[int, str] = (200, "")
    elsewhere: str = ""
    log: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    endpoint: str = ""

    def described(self, name: str) -> dict[str, Any]:
        """Size and checksums of a file, as the API gives them; weights are in large-file storage."""
        content = self.files[name]
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        facts: dict[str, Any] = {"size": len(content), "oid": oid, "blobId": oid}
        if name.endswith(".safetensors"):
            digest = hashlib.sha256(content).hexdigest()
            facts["lfs"] = {"oid": digest, "sha256": digest, "size": len(content), "pointerSize": 134}
        return facts

    def etag(self, name: str) -> str:
        facts = self.described(name)
        return str(facts["lfs"]["sha256"] if "lfs" in facts else facts["oid"])

    def requests(self, kind: str) -> list[str]:
        """The requests so far that begin with `kind`."""
        return [line for line in self.log if line.startswith(kind)]


@contextmanager
def fake_hub(directory: Path) -> Iterator[FakeHub]:
    """Serve what lies in a directory."""
    hub = FakeHub({path.name: path.read_bytes() for path in directory.iterdir()})

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing on standard error."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub, path = self.served, urlsplit(self.path).path
        hub.log.append(" ".join(filter(None, (self.command, path, self.headers.get("Range")))))
        hub.tokens.add(self.headers.get("Authorization"))
        kind, _, rest = path.removeprefix("/").partition(f"{REPO}/")
        if hub.status[0] != 200 or kind not in ("", "api/models/"):
            status, code = (404, "RepoNotFound") if hub.status[0] == 200 else hub.status
            self._send(status, b"{}", body, {"X-Error-Code": code})
        elif rest.partition("/")[2].partition("/")[0] not in ("main", COMMIT):
            self._send(404, b"{}", body, {"X-Error-Code": "RevisionNotFound"})
        elif kind == "":
            self._file(rest.split("/", 2)[2], body)
        elif rest.startswith("tree/"):
            listed = [{"type": "file", "path": name, **hub.described(name)} for name in hub.files]
            self._send(200, json.dumps(listed).encode(), body, {})
        else:
            siblings = [{"rfilename": name, **hub.described(name)} for name in hub.files]
            self._send(200, json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode(), body, {})

    def _file(self, name: str, body: bool) -> None:
        hub = self.served
        if name not in hub.files:
            self._send(404, b"{}", body, {"X-Error-Code": "EntryNotFound"})
            return
        content, asked = hub.files[name], self.headers.get("Range")
        headers = {"ETag": f'"{hub.etag(name)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if hub.elsewhere and name.endswith(".safetensors"):
            linked = {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
            self._send(302, b"", body, {**headers, **linked, "Location": hub.elsewhere + self.path})
            return
        if name in hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if body and name in hub.silent | hub.dripping:
            self._stall(name, content, headers)
            return
        if not asked:
            self._send(200, content, body, headers, hub.cut.pop(name, None) if body else None)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1 if last else None]
        headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        self._send(206, part, body, headers)

    def _stall(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        """Until the client has left, or all of it arrived after all."""
        self._send(200, content, True, headers, 0)
        for byte in content:
            time.sleep(0.02)
            if name in self.served.dripping:
                self.wfile.write(bytes([byte]))

    def _send(self, status: int, content: bytes, body: bool, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content)), "Content-Type": "text/plain"}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content[:cut])
        if cut is not None:
            self.close_connection = True
