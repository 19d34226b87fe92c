"""Every kind of bad request gets one line in OpenAI's shape, and the log gets nothing of the prompt."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import dkv
from dkv.server import Limits
from dkv.server.api_errors import api_error
from tests.support.fake_service import FakeService, app_of, ask, error_of, post

SMALL = Limits(body=2000, max_prompt=40, max_tokens=32, default_tokens=16, choices=4)

# body, the field that is named, what the message says
BAD: list[tuple[str, dict[str, Any], str | None, str]] = [
    ("completions", {"max_tokens": 0}, "max_tokens", "max_tokens=0: must be at least 1"),
    ("completions", {"max_tokens": 33}, "max_tokens", "max_tokens=33 exceeds the limit of 32"),
    ("completions", {"max_tokens": "5"}, "max_tokens", 'max_tokens="5"'),
    ("completions", {"max_tokens": True}, "max_tokens", "max_tokens=true"),
    ("completions", {"block_length": 64}, "block_length", "exceeds the limit of 32"),
    ("completions", {"steps": 17}, "steps", "use steps=16 or fewer"),
    ("completions", {"max_tokens": 8, "block_length": 4, "steps": 3}, "steps", "use steps=4"),
    ("completions", {"temperature": -1}, "temperature", "temperature=-1: must not be negative"),
    ("completions", {"top_p": 0}, "top_p", "top_p=0: must be greater than 0"),
    ("completions", {"top_k": -2}, "top_k", "must be at least 1"),
    ("completions", {"cfg_scale": -2}, "cfg_scale", "cfg_scale=-2: must not be negative"),
    ("completions", {"seed": -1}, "seed", "must not be negative"),
    ("completions", {"seed": (1 << 62) - 1, "n": 2}, "seed", "below 2**62"),
    ("completions", {"n": 5}, "n", "exceeds the limit of 4 choices"),
    ("completions", {"n": 2, "prompt": ["a", "b", "c"]}, "n", "n=2 for 3 prompts"),
    ("completions", {"n": 0}, "n", "must be at least 1"),
    ("completions", {"stop": 5}, "stop", "a text, or a list of at most 16"),
    ("completions", {"stop": ["x"] * 17}, "stop", "a text, or a list of at most 16"),
    ("completions", {"stop": [""]}, "stop", "none empty"),
    ("completions", {"cache": "nope"}, "cache", "unknown name 'nope'; known: "),
    ("completions", {"cache": "dkv-decode:refrsh=3"}, "cache", "refrsh"),
    ("completions", {"decoder": "nope"}, "decoder", "known: "),
    ("completions", {"prompt": ""}, "prompt", "prompt is empty"),
    ("completions", {"prompt": []}, "prompt", "holds no prompt"),
    ("completions", {"prompt": [[]]}, "prompt", "prompt is empty"),
    ("completions", {"prompt": [999]}, "prompt", "999 is not a token id"),
    ("completions", {"prompt": {"a": 1}}, "prompt", "must be a text, a list of token ids"),
    ("completions", {"prompt": "x" * 41}, "prompt", "prompt of 41 tokens exceeds the limit of 40"),
    ("chat/completions", {"gen_length": 4}, "gen_length", "there is no such field; did you mean max_tokens?"),
    ("completions", {"remasking": "random"}, "remasking", "there is no such field; did you mean decoder?"),
    ("completions", {"temprature": 1}, "temprature", "there is no such field; did you mean temperature?"),
    ("completions", {"messages": []}, "messages", "/v1/chat/completions has it"),
    ("completions", {"echo": True}, "echo", "echo: repeating the prompt is not supported by this server"),
    ("completions", {"logprobs": 0}, "logprobs", "are not supported"),
    ("chat/completions", {"suffix": "end"}, "suffix", "use /v1/completions"),
    ("completions", {"suffix": "b", "stop": "c"}, "stop", "does not go with suffix"),
    ("completions", {"suffix": "b", "canvas": True}, "suffix", "does not go with canvas"),
    ("completions", {"canvas": True, "prompt": ["a"]}, "prompt", "must be one text with holes"),
    ("completions", {"canvas": True, "prompt": "no hole"}, "canvas", "has no hole"),
    ("completions", {"canvas": True, "prompt": "a{mask:33}b"}, "prompt", "reach over 33 tokens"),
    ("completions", {"max_tokens": 16, "min_tokens": 17}, "min_tokens", "min_tokens=17 exceeds max_tokens=16"),
    ("completions", {"eos_penalty": -1}, "eos_penalty", "must not be negative"),
    ("completions", {"best_of": 3}, "best_of", "all n choices are returned; use n"),
    ("completions", {"draft": True}, "draft", "needs stream=true"),
    ("completions", {"stream": True, "stream_options": {"x": 1}}, "stream_options", "stream_options.x"),
    ("chat/completions", {"messages": []}, "messages", "must have at least 1"),
    ("chat/completions", {"messages": [{"role": "assistant", "content": "a"}]}, "messages", "end the conversation"),
    ("chat/completions", {"messages": [{"role": "user", "content": " "}]}, "messages", "messages[0].content is empty"),
    ("chat/completions", {"messages": [{"role": "user", "content": "x" * 41}]}, "messages", "messages of"),
    ("chat/completions", {"messages": [{"role": "clown", "content": "a"}]}, "messages", "messages[0].role="),
    ("chat/completions", {"messages": [{"role": "user"}]}, "messages", "messages[0].content: is required"),
    ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "messages", "of type x are not"),
    ("chat/completions", {"messages": [{"role": "user", "content": "a", "name": "<b>"}]}, "messages", "name is"),
    ("chat/completions", {"tools": [{"type": "function"}]}, "tools", "tool calling is not supported"),
    ("chat/completions", {"response_format": {"type": "json_object"}}, "response_format", "is not supported"),
    ("chat/completions", {"logprobs": True}, "logprobs", "are not supported"),
    ("chat/completions", {"presence_penalty": 1}, "presence_penalty", "penalties are not supported by this server"),
    ("chat/completions", {"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens",
     "max_tokens: 3 differs from max_completion_tokens=4; give one"),
    ("completions", {"seed": 1 << 62}, "seed", "must be below 4611686018427387904"),
    ("completions", {"max_tokens": 1 << 31}, "max_tokens", "must be below 2147483648"),
    ("completions", {"canvas": True, "prompt": "a{mask:99999999999}b{mask}"}, "prompt", "exceed the model's context"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "param", "says"), BAD, ids=lambda value: str(value)[:40])
def test_a_bad_body_is_a_400_that_names_the_field(
    lm: dkv.DiffusionLM, path: str, body: dict[str, Any], param: str | None, says: str
) -> None:
    service = FakeService(lm)
    response = post(app_of(service, lm, SMALL), path, body)
    error = error_of(response)
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert says in error["message"]
    assert service.requests == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "the body is not JSON"),
        (b"[1]", "must be a JSON object"),
        (b"", "must be a JSON object"),
        (b'"\xff"', "the body is not text in UTF-8"),
        (b"[" * 1999, "the body is "),
        (b'{"model":"fake","seed":' + b"9" * 1900 + b"}", "seed"),
        (b'{"model":"fake","prompt":"a","temperature":NaN}', "temperature"),
        (b'{"model":"fake","prompt":"a","cfg_scale":1e999}', "cfg_scale=Infinity: must be a finite number"),
        (b'{"model":"fake","prompt":"a\\ud800"}', "half a surrogate"),
        (b'{"model":"fake","\\ud800":1}', ""),
        (b'{"model":"\\ud800","prompt":"a"}', ""),
    ],
)
def test_a_body_that_is_none_is_a_400(lm: dkv.DiffusionLM, body: bytes, says: str) -> None:
    app = app_of(FakeService(lm), lm, SMALL)
    response = ask(app, "POST", "/v1/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 404)
    assert says in error_of(response)["message"]


def test_json_of_another_content_type_is_refused(lm: dkv.DiffusionLM) -> None:
    """Pages of other sites can send text/plain to a server on this machine without asking."""
    app = app_of(FakeService(lm), lm)
    body = b'{"model":"fake","prompt":"a"}'
    response = ask(app, "POST", "/v1/completions", content=body, headers={"content-type": "text/plain"})
    assert (response.status_code, "application/json" in error_of(response)["message"]) == (400, True)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "unknown_url"),
        ("GET", "/docs", 404, "unknown_url"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/v1/models/owner/other", 404, "model_not_found"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models/fake", 405, "method_not_allowed"),
    ],
)
def test_an_unknown_url_model_or_method(lm: dkv.DiffusionLM, method: str, path: str, status: int, code: str) -> None:
    response = ask(app_of(FakeService(lm), lm), method, path)
    assert (response.status_code, error_of(response)["code"]) == (status, code)


def test_an_unknown_model_in_a_body(lm: dkv.DiffusionLM) -> None:
    response = post(app_of(FakeService(lm), lm), "completions", {"model": "gpt-4"})
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "'gpt-4'" in error["message"]
    assert "'fake'" in error["message"]


def test_what_the_memory_cannot_hold_is_said_without_the_servers_options() -> None:
    refused = dkv.CapacityError("memory=10 bytes cannot hold it; raise memory", positions=80, need=20, limit=10)
    error = api_error(refused, "messages")
    assert (error.status, error.param, error.code) == (400, None, "context_length_exceeded")
    assert error.message.startswith("this server cannot hold a request of 80 tokens")
    assert "memory" not in error.message
    assert error.message.endswith("shorten messages, or lower max_tokens")


@pytest.mark.parametrize(
    ("error", "message", "param"),
    [
        (dkv.SettingError("gen_length=5 must be 4", "gen_length"), "max_tokens=5 must be 4", "max_tokens"),
        (dkv.SettingError("steps=3: at most gen_length=2", "steps"), "steps=3: at most max_tokens=2", "steps"),
        (dkv.SettingError("n=5 of no argument"), "n=5 of no argument", None),
        (dkv.PromptError("prompt is empty; a prompt has text"), "messages is empty; a prompt has text", "messages"),
        (dkv.PromptError("chat=True: fails (x)", "chat", "x"), "messages: the model's chat", "messages"),
    ],
)  # fmt: skip
def test_errors_of_the_library_are_said_in_the_words_of_the_request(
    error: Exception, message: str, param: str | None
) -> None:
    found = api_error(error, "messages")
    assert found.message.startswith(message)
    assert found.param == param


def test_no_log_has_a_prompt(lm: dkv.DiffusionLM, caplog: pytest.LogCaptureFixture) -> None:
    secret = "xyzzy"
    with caplog.at_level(logging.DEBUG):
        app = app_of(FakeService(lm, error=(0, ValueError(secret))), lm)
        assert post(app, "completions", {"prompt": secret}).status_code == 500
        post(app, "completions", {"prompt": secret, "temperature": -1})
        post(app, "completions", {"prompt": {secret: secret}})
    own = [record for record in caplog.records if record.name != "asyncio"]
    assert [record.name for record in own if record.levelno >= logging.ERROR] == ["dkv.server"]
    assert "fake_service.py" in caplog.text  # where it went wrong
    assert secret not in caplog.text


def test_a_model_without_a_tokenizer_is_refused(bare_lm: dkv.DiffusionLM, lm: dkv.DiffusionLM) -> None:
    with pytest.raises(dkv.SettingError, match="has no tokenizer"):
        app_of(FakeService(lm), bare_lm)


def test_the_service_runs_as_long_as_the_application(lm: dkv.DiffusionLM) -> None:
    service = FakeService(lm)
    app = app_of(service, lm)

    async def live() -> None:
        async with app.router.lifespan_context(app):
            assert service.entered == 1

    asyncio.run(live())
    assert service.entered == 0
