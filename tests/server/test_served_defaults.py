"""A request that says little, on the embedded model: its bound costs nothing, and what it ran with is said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import dkv
from dkv.engine import Engine, Service
from dkv.errors import SettingError
from dkv.params import Options
from dkv.server import Limits, build
from dkv.tiny import TASKS, load_eval
from tests.support.fake_service import events_of

PROBLEM = load_eval("words")[0]
"""The demonstration's."""


def app_of(lm: dkv.DiffusionLM, limits: Limits | None = None, **operator: Any) -> FastAPI:
    return build(Service(Engine(lm)), lm, limits, settings=cast("Options", operator))


@pytest.fixture(scope="module")
def client(tiny: dkv.DiffusionLM) -> Iterator[TestClient]:
    with TestClient(app_of(tiny)) as client:
        yield client


def ask(client: TestClient, **body: Any) -> dict[str, Any]:
    """The one choice of an answer to the demonstration's problem."""
    answer = client.post("/v1/chat/completions", json=asked(**body))
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    return dict(choice)


def asked(**body: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": PROBLEM.prompt}], **body}


def is_right(choice: dict[str, Any]) -> bool:
    return bool(TASKS["words"].check(PROBLEM, choice["message"]["content"]))


def test_max_tokens_is_a_bound_and_not_a_cost(client: TestClient) -> None:
    """Forwards and rows are those of the answer's one block, whatever the bound."""
    choices = [ask(client, max_tokens=bound) for bound in (64, 256, 1024)]
    assert all(is_right(choice) for choice in choices)
    assert len({choice["message"]["content"] for choice in choices}) == 1
    few, *more = (choice["dkv"] for choice in choices)
    for cost in more:
        assert (cost["forwards"], cost["rows_computed"], cost["rows_total"]) == (
            few["forwards"], few["rows_computed"], few["rows_total"],
        )  # fmt: skip
    assert few["forwards"] < 32
    assert few["rows_total"] <= few["forwards"] * (len(PROBLEM.prompt) + 64)


def test_an_answer_says_what_it_ran_with_and_where_that_came_from(client: TestClient) -> None:
    plain = ask(client)["dkv"]
    assert plain["sources"]["cache"] == plain["sources"]["decoder"] == "tuned"
    assert plain["settings"]["grow"] is True
    mine = ask(client, cache="dkv-decode", temperature=0.0)["dkv"]
    assert mine["settings"]["cache"].startswith("dkv-decode")
    assert (mine["sources"]["cache"], mine["sources"]["temperature"]) == ("request", "request")
    card = client.get("/v1/models").json()["data"][0]["dkv"]
    assert card["settings"]["cache"] == plain["settings"]["cache"]
    assert card["sources"]["cache"] == "tuned"


def test_a_choice_that_was_cut_says_it_too_and_is_the_beginning_of_the_whole(client: TestClient) -> None:
    cut, whole = ask(client, max_tokens=5), ask(client)
    assert cut["finish_reason"] == "length"
    assert whole["message"]["content"].startswith(cut["message"]["content"])
    assert cut["dkv"]["settings"] == whole["dkv"]["settings"] | {"steps": 64}


def test_text_streams_before_all_is_done(client: TestClient) -> None:
    """By the canvas: at the first text some of its tokens are still open."""
    answer = client.post("/v1/chat/completions", json=asked(max_tokens=1024, stream=True, draft=True))
    choices = [choice for event in events_of(cast("httpx.Response", answer))[:-1] for choice in event["choices"]]
    steps = [choice["delta"].get("content", "") for choice in choices if "draft" in choice.get("dkv", {})]
    forwards = choices[-1]["dkv"]["forwards"]
    first = next(number for number, text in enumerate(steps, 1) if text)
    assert first <= 0.4 * forwards


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"grow": False, "max_tokens": 32}, {"grow": False, "block_length": 32, "gen_length": 32, "steps": 32}),
        ({"grow": False}, {"grow": False, "block_length": 128, "gen_length": 128, "steps": 128}),
        ({"steps": 16, "max_tokens": 32}, {"grow": False, "block_length": 32, "gen_length": 32, "steps": 16}),
        (
            {"steps": 16, "grow": True, "max_tokens": 100},
            {"grow": True, "block_length": 64, "gen_length": 128, "steps": 16},
        ),
        ({"steps": 17, "grow": True, "max_tokens": 100}, {"grow": True, "gen_length": 128, "steps": 18}),
        ({"block_length": 32, "max_tokens": 40}, {"grow": True, "block_length": 32, "gen_length": 64, "steps": 64}),
        ({"max_tokens": 100}, {"grow": True, "block_length": 64, "gen_length": 128}),
        ({"min_tokens": 1500}, {"grow": True, "min_tokens": 1500, "gen_length": 1536}),
        ({"min_tokens": 200, "grow": False}, {"grow": False, "min_tokens": 200, "gen_length": 200}),
        ({"stop": "."}, {"grow": True, "stop": (".",)}),
        ({"decoder": "random"}, {"grow": True}),
        ({"temperature": 1.0, "cfg_scale": 1.0, "top_k": 4}, {"grow": True, "temperature": 1.0, "cfg_scale": 1.0}),
        ({"prompt": "a", "suffix": "b"}, {"grow": False, "gen_length": 128}),
        ({"prompt": "a {mask:3} b", "canvas": True}, {"grow": False, "gen_length": 3}),
        ({"prompt": "a", "suffix": "b", "max_tokens": 8, "block_length": 4}, {"grow": False, "block_length": 4}),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_no_default_refuses_what_a_client_asks_for(
    lm_of_wide_context: dkv.DiffusionLM, body: dict[str, Any], expected: dict[str, Any]
) -> None:
    settings = settings_of(lm_of_wide_context, body)
    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("operator", "body", "expected"),
    [
        ({"steps": 64}, {"max_tokens": 32}, {"steps": 32, "grow": False}),
        ({"steps": 8, "block_length": 16}, {"max_tokens": 40}, {"steps": 9, "gen_length": 48, "grow": False}),
        ({"grow": False}, {"max_tokens": 64, "grow": True}, {"grow": True, "block_length": 64}),
        ({"grow": True, "steps": 4}, {"max_tokens": 512}, {"grow": True, "steps": 8}),
        ({"grow": True, "block_length": 16}, {"prompt": "a", "suffix": "b", "max_tokens": 5}, {"block_length": 5}),
        ({"temperature": 0.5, "top_k": 3}, {"temperature": 0.0}, {"temperature": 0.0, "top_k": 3}),
        ({"block_length": 128}, {"max_tokens": 8}, {"gen_length": 128}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_no_setting_of_the_operator_refuses_what_a_client_asks_for(
    lm_of_wide_context: dkv.DiffusionLM, operator: dict[str, Any], body: dict[str, Any], expected: dict[str, Any]
) -> None:
    settings = settings_of(lm_of_wide_context, body, **operator)
    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.fixture
def lm_of_wide_context(tiny: dkv.DiffusionLM) -> dkv.DiffusionLM:
    return tiny


def settings_of(lm: dkv.DiffusionLM, body: dict[str, Any], **operator: Any) -> Any:
    """What the engine would be asked for."""
    from tests.support.fake_service import FakeService, post

    service = FakeService(lm)
    limits = Limits()
    app = build(service, lm, limits, name="fake", settings=cast("Options", operator))  # type: ignore[arg-type]
    answer = post(app, "completions", body)
    assert answer.status_code == 200, answer.text
    return service.requests[0].settings


def test_a_prompt_near_the_context_is_answered_in_what_is_left(tiny: dkv.DiffusionLM) -> None:
    """No default makes a request too long that is not: 37 tokens are less than a block."""
    from tests.support.fake_service import FakeService, post

    service = FakeService(tiny)
    app = build(service, tiny, name="fake")  # type: ignore[arg-type]
    context = tiny.model.config.context
    for prompt, bound, length in ((context - 37, 30, 30), (context - 37, None, 37), (context - 190, 190, 128)):
        body = {"prompt": [7] * prompt, **({} if bound is None else {"max_tokens": bound})}
        assert post(app, "completions", body).status_code == 200
        assert service.requests[-1].settings.gen_length == length
    assert post(app, "completions", {"prompt": [7] * (context - 37), "max_tokens": 38}).status_code == 400


def test_the_block_is_no_longer_than_the_servers_limit(tiny: dkv.DiffusionLM) -> None:
    from tests.support.fake_service import FakeService, post

    service = FakeService(tiny)
    app = build(service, tiny, Limits(max_tokens=16), name="fake")  # type: ignore[arg-type]
    assert post(app, "completions", {}).status_code == 200
    assert (service.requests[0].settings.block_length, service.requests[0].settings.gen_length) == (16, 16)


def test_settings_that_no_request_could_have_are_refused_at_the_start(tiny: dkv.DiffusionLM) -> None:
    with pytest.raises(SettingError, match=r"^temperature=-1.0 must"):
        app_of(tiny, temperature=-1.0)


def test_the_engine_reserves_memory_by_the_bound_and_computes_what_is_there(tiny: dkv.DiffusionLM) -> None:
    """What a bound does cost: slots, until the answer has ended."""
    used = []
    for bound in (64, 1024):
        engine = Engine(tiny)
        engine.add(tiny.request(PROBLEM.prompt, gen_length=bound, block_length=64, grow=True, cache="none"))
        (update,) = engine.step()
        used.append(engine.status().memory_used)
        assert update.generation is None
        while engine.step():
            pass
        assert engine.status().memory_used == 0
    assert 4 < used[1] / used[0] < 16


def test_curl_gets_json(client: TestClient) -> None:
    answer = client.post("/v1/completions", json={"model": "tiny", "prompt": "12+30="})
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["dkv"]["settings"]["block_length"] == 64
