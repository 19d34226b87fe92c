"""Whatever the server's own description allows, and much that it does not, ends without a 500."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import given
from schemathesis.checks import not_a_server_error

import dkv
from dkv.server import Limits
from tests.server.fakes import FakeService, app_of, ask


OPERATIONS = (
    "GET /v1/models",
    "GET /v1/models/{model}",
    "POST /v1/completions",
    "POST /v1/chat/completions",
    "GET /health",
    "GET /ready",
    "GET /metrics",
)


@pytest.mark.parametrize("name", OPERATIONS)
def test_nothing_ends_in_a_500(lm: dkv.DiffusionLM, name: str) -> None:
    limits = Limits(body=20_000, max_prompt=64, max_tokens=32, default_tokens=16, choices=8)
    app = app_of(FakeService(lm, drafts=["x"]), lm, limits)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    found = (result.ok() for result in schema.get_all_operations())
    operation = next(o for o in found if f"{o.method.upper()} {o.path}" == name)
    statuses = set()

    @given(operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE))
    def valid(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict):
            case.body["model"] = "fake"  # else almost every body would end as a 404
        statuses.add(case.call_and_validate(checks=[not_a_server_error]).status_code)

    @given(operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    def invalid(case: schemathesis.Case) -> None:
        statuses.add(case.call_and_validate(checks=[not_a_server_error]).status_code)

    valid()
    if name.startswith("POST"):
        invalid()
    assert statuses & {200, 404}


def test_the_description_names_every_route_and_field(lm: dkv.DiffusionLM) -> None:
    found = ask(app_of(FakeService(lm), lm), "GET", "/openapi.json").json()
    assert set(found["paths"]) >= {
        "/v1/models", "/v1/models/{model}", "/v1/completions", "/v1/chat/completions", "/health", "/ready", "/metrics",
    }  # fmt: skip
    bodies = found["components"]["schemas"]
    shared = {"model", "max_tokens", "n", "seed", "stop", "stream", "stream_options", "temperature", "top_p"}
    own = {"block_length", "cache", "cfg_scale", "decoder", "draft", "steps", "top_k"}
    assert set(bodies["CompletionBody"]["properties"]) == shared | own | {"prompt"}
    assert set(bodies["ChatBody"]["properties"]) == shared | own | {"messages", "max_completion_tokens"}
