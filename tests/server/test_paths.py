"""Methods, spellings of paths, request ids, and which pages may read answers."""

from __future__ import annotations

import http.client
import time
from urllib.parse import urlsplit

import pytest
import uvicorn

import dkv
from dkv.errors import SettingError
from dkv.server import build
from dkv.server.middleware import parse_origins
from dkv.server.uvicorn_server import KEEP_ALIVE
from tests.support.fake_service import FakeService, app_of, ask, error_of
from tests.support.server_fixtures import Serve

PAGE = {"origin": "http://page.example"}
ASKED = {
    **PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}
BODY = {"model": "fake", "prompt": "Hi"}


@pytest.mark.parametrize(
    "path", ["/", "/health", "/ready", "/metrics", "/v1/models", "/v1/models/fake", "/openapi.json"]
)
def test_head_is_get_without_the_body(lm: dkv.DiffusionLM, path: str) -> None:
    app = app_of(FakeService(lm), lm)
    head, get = ask(app, "HEAD", path), ask(app, "GET", path)
    assert (head.status_code, head.content) == (200, b"")
    if path != "/metrics":
        assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("path", ["/v1/models/", "http://x//v1/models", "/health/", "/v1//models"])
def test_a_slash_too_many_does_not_matter(lm: dkv.DiffusionLM, path: str) -> None:
    assert ask(app_of(FakeService(lm), lm), "GET", path).status_code == 200


def test_a_slash_too_many_does_not_open_what_needs_a_key(lm: dkv.DiffusionLM) -> None:
    app = app_of(FakeService(lm), lm, keys=("secret",))
    for path in ("http://x//v1/models", "/v1/models/", "/health/../v1/models"):
        assert ask(app, "GET", path).status_code == 401
        assert ask(app, "HEAD", path).status_code == 401


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/completions"), ("DELETE", "/v1/models"), ("PUT", "/health")])
def test_a_method_that_is_not_allowed_is_told_which_are(lm: dkv.DiffusionLM, method: str, path: str) -> None:
    response = ask(app_of(FakeService(lm), lm), method, path)
    allowed = "OPTIONS, POST" if "completions" in path else "GET, HEAD, OPTIONS"
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert error_of(response)["code"] == "method_not_allowed"
    options = ask(app_of(FakeService(lm), lm), "OPTIONS", path)
    assert (options.status_code, options.headers["allow"]) == (204, allowed)


def test_a_body_without_a_content_type_is_json(lm: dkv.DiffusionLM) -> None:
    app = app_of(FakeService(lm), lm)
    assert ask(app, "POST", "/v1/completions", content=b'{"model":"fake","prompt":"Hi"}').status_code == 200


@pytest.mark.parametrize("given", ["abc-1", None, "x" * 200, "\x07"])
def test_every_answer_has_a_request_id(lm: dkv.DiffusionLM, given: str | None) -> None:
    headers = {} if given is None else {"x-request-id": given}
    for path in ("/health", "/nope", "/v1/completions"):
        found = ask(app_of(FakeService(lm), lm), "GET", path, headers=headers).headers["x-request-id"]
        assert found == given if given == "abc-1" else len(found) == 32


def test_by_default_any_page_may_use_the_server_also_one_with_keys(lm: dkv.DiffusionLM) -> None:
    app = app_of(FakeService(lm), lm, keys=("secret",))
    asked = ask(app, "OPTIONS", "/v1/chat/completions", headers=ASKED)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in asked.headers
    assert "authorization" in asked.headers["access-control-allow-headers"]
    key = {"authorization": "Bearer secret"}
    for headers, status in ((PAGE, 401), ({**PAGE, **key}, 200)):
        answer = ask(app, "POST", "/v1/completions", json=BODY, headers=headers)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, "*")


def test_origins_can_be_named_or_none(lm: dkv.DiffusionLM) -> None:
    def allowed(*origins: str) -> str | None:
        app = build(FakeService(lm), lm, name="fake", origins=origins)  # type: ignore[arg-type]
        found: str | None = ask(app, "GET", "/health", headers=PAGE).headers.get("access-control-allow-origin")
        return found

    assert allowed("http://page.example") == "http://page.example"
    assert allowed("http://other.example") is None
    assert allowed() is None


def test_the_origins_of_the_option() -> None:
    assert parse_origins(None) == parse_origins(["*"]) == ("*",)
    assert parse_origins(["none"]) == ()
    assert parse_origins(["https://A.example/", "http://localhost:3000"]) == (
        "https://a.example",
        "http://localhost:3000",
    )
    for wrong in (
        "example.org",
        "https://",
        "https://a/b",
        "*.example.org",
        "none,x",
        "https://a:b",
        "https://u@a",
        "",
    ):
        with pytest.raises(SettingError, match="allow_origin="):
            parse_origins([wrong])


def test_an_idle_connection_outlives_those_of_proxies(lm: dkv.DiffusionLM, serve: Serve) -> None:
    assert KEEP_ALIVE > 60
    address = urlsplit(serve(app_of(FakeService(lm), lm)))
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
    for _ in range(2):
        connection.request("GET", "/health")
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (200, True)
        assert not answer.will_close
        time.sleep(0.05)
    connection.request("GET", "/health", headers={"connection": "close"})
    answer = connection.getresponse()
    answer.read()
    assert answer.will_close
    connection.close()


def test_the_seconds_of_an_idle_connection_reach_the_server(
    lm: dkv.DiffusionLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dkv.server.admission import Gate, Limits
    from dkv.server.listen import listen
    from dkv.server.uvicorn_server import Server, run

    seen = list[uvicorn.Config]()

    def note(self: Server, sockets: object = None) -> None:
        seen.append(self.config)
        self.started = True

    monkeypatch.setattr(Server, "run", note)
    with listen("127.0.0.1", 0) as listening:
        run(app_of(FakeService(lm), lm), listening, Gate(Limits()), 0.0, False, 90)
        run(app_of(FakeService(lm), lm), listening, Gate(Limits()), 0.0, False)
    assert [config.timeout_keep_alive for config in seen] == [90, KEEP_ALIVE]
