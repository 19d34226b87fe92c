"""API keys."""

from __future__ import annotations

import pytest

import dkv
from dkv.server.middleware import parse_keys
from tests.support.fake_service import FakeService, app_of, ask, error_of


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer one", 200),
        ("bearer two", 200),
        ("Bearer three", 401),
        ("Bearer one,two", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Basic one", 401),
        ("one", 401),
        ("Bearer öne", 401),
    ],
)
def test_only_a_key_opens(lm: dkv.DiffusionLM, header: str | None, status: int) -> None:
    headers = {} if header is None else {"authorization": header.encode()}
    response = ask(app_of(FakeService(lm), lm, keys=("one", "two")), "GET", "/v1/models", headers=headers)
    assert response.status_code == status
    if status == 401:
        assert error_of(response)["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
        assert "one" not in response.text


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/fake", "/metrics", "/openapi.json", "/nope", "//metrics"])
def test_with_a_key_all_else_is_closed(lm: dkv.DiffusionLM, path: str) -> None:
    app = app_of(FakeService(lm), lm, keys=("one",))
    assert ask(app, "GET", "http://x" + path).status_code == 401
    assert ask(app, "POST", "/v1/completions", json={}).status_code == 401


@pytest.mark.parametrize("path", ["/health", "/ready", "http://x//health"])
def test_probes_need_no_key(lm: dkv.DiffusionLM, path: str) -> None:
    assert ask(app_of(FakeService(lm), lm, keys=("one",)), "GET", path).status_code == 200


def test_without_keys_all_is_open(lm: dkv.DiffusionLM) -> None:
    assert ask(app_of(FakeService(lm), lm), "GET", "/v1/models", headers={"authorization": "x"}).status_code == 200


def test_keys_are_separated_by_commas() -> None:
    assert parse_keys(None) == ()
    assert parse_keys("one, two") == ("one", "two")


@pytest.mark.parametrize("text", ["", " ", "a,", ",a", "a b", "ключ", "a\n"])
def test_a_key_that_could_never_be_given_is_refused(text: str) -> None:
    if text == "a\n":
        assert parse_keys(text) == ("a",)
        return
    with pytest.raises(dkv.SettingError, match="DKV_API_KEY"):
        parse_keys(text)
