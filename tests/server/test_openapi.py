"""Whatever the server's own description allows, and much that it does not, ends without a 500."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

import dkv
from dkv.server import Limits
from tests.support.fake_service import FakeService, app_of, ask

OPERATIONS = (
    "GET /v1/models",
    "GET /v1/models/{model}",
    "POST /v1/completions",
    "POST /v1/chat/completions",
    "GET /health",
    "GET /ready",
    "GET /metrics",
)


def fit(body: dict[str, Any]) -> None:
    """Bring a body within the limits, so that some get all the way through; what is left may still be refused."""
    body["model"] = "fake"
    for name, most in (("max_tokens", 32), ("max_completion_tokens", 32), ("block_length", 32), ("steps", 4), ("n", 4)):
        if isinstance(body.get(name), (int, float)):
            body[name] = int(body[name]) % most + 1
    for name in ("cache", "decoder", "stream_options"):
        if len(str(body.get(name))) % 2:
            body.pop(name, None)
    if "prompt" in body and not isinstance(body["prompt"], str):
        body["prompt"] = [[len(str(part))] for part in body["prompt"][:2]]
    if body.get("messages"):
        body["messages"] = body["messages"][-2:]
        body["messages"][-1]["role"] = "user"
        for message in body["messages"]:
            message["content"] = message.get("content") or "a"
            for label in ("name", "tool_call_id"):
                if len(str(message.get(label))) % 3:
                    message.pop(label, None)


@pytest.mark.parametrize("name", OPERATIONS)
def test_nothing_ends_in_a_500(lm: dkv.DiffusionLM, name: str) -> None:
    import schemathesis  # not above: every worker collects every file, and this takes a second
    from schemathesis.checks import not_a_server_error

    limits = Limits(body=20_000, max_prompt=64, max_tokens=32, default_tokens=16, choices=8)
    app = app_of(FakeService(lm, drafts=["x"]), lm, limits)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    method, _, path = name.partition(" ")
    operation = schema[path][method]
    statuses = set()

    @given(operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE))
    def valid(case: Any) -> None:
        if isinstance(case.body, dict):
            fit(case.body)
        statuses.add(case.call_and_validate(checks=[not_a_server_error]).status_code)

    @given(operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    def invalid(case: Any) -> None:
        statuses.add(case.call_and_validate(checks=[not_a_server_error]).status_code)

    valid()
    if name.startswith("POST"):
        invalid()
    assert statuses & ({404} if "{" in name else {200})


def test_the_description_names_every_route_and_field(lm: dkv.DiffusionLM) -> None:
    found = ask(app_of(FakeService(lm), lm), "GET", "/openapi.json").json()
    assert set(found["paths"]) >= {
        "/v1/models", "/v1/models/{model}", "/v1/completions", "/v1/chat/completions", "/health", "/ready", "/metrics",
    }  # fmt: skip
    bodies = found["components"]["schemas"]
    shared = {"model", "max_tokens", "n", "seed", "stop", "stream", "stream_options", "temperature", "top_p"}
    shared |= {"best_of", "ignore_eos"}
    own = {
        "block_length", "cache", "cfg_scale", "decoder", "draft", "eos_penalty", "grow", "min_tokens",
        "repetition_penalty", "steps", "top_k",
    }  # fmt: skip
    assert set(bodies["CompletionBody"]["properties"]) == shared | own | {"canvas", "parse_special", "prompt", "suffix"}
    assert set(bodies["ChatBody"]["properties"]) == shared | own | {"messages", "max_completion_tokens"}
