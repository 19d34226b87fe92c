"""From a body to requests: what is rendered already, what is warned of, bounds, and work that nobody waits for."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

import dkv
from dkv.engine import Service
from dkv.server import Limits, build
from dkv.server.requests import ModelService
from dkv.server.schema import ChatBody
from dkv.server.served_defaults import Defaults
from tests.support.checkpoints import write_tokenizer
from tests.support.fake_service import FakeService, app_of, ask, client_of, error_of, events_of, post

EOT = "<|eot_id|>"
CHAT = [{"role": "user", "content": "2+2?"}]


def test_a_rendered_prompt_has_the_ids_of_its_conversation_if_that_is_asked_for(tiny: dkv.DiffusionLM) -> None:
    assert tiny.tokenizer is not None
    service, rendered = FakeService(tiny), tiny.tokenizer.render(CHAT)
    response = post(app_of(service, tiny), "completions", {"prompt": rendered, "parse_special": True})
    assert service.requests[0].prompt == tuple(tiny.tokenizer.encode_chat(CHAT))
    assert "dkv" not in response.json()
    post(app_of(service, tiny), "completions", {"prompt": [rendered, "b"], "parse_special": False})
    assert service.requests[1].prompt == tuple(tiny.tokenizer.encode(rendered))


@pytest.mark.parametrize(("asked", "parsed"), [(None, True), (True, True), (False, False)])
def test_an_operator_can_have_rendered_prompts_taken(asked: bool | None, parsed: bool, tiny: dkv.DiffusionLM) -> None:
    """What lm-eval's --apply_chat_template sends has no such field."""
    assert tiny.tokenizer is not None
    service, rendered = FakeService(tiny), tiny.tokenizer.render(CHAT)
    app = build(cast(Service, service), tiny, Limits(default_tokens=32), name="fake", parse_special=True)
    assert post(app, "completions", {"prompt": rendered, "parse_special": asked}).status_code == 200
    encode = tiny.tokenizer.encode
    assert service.requests[0].prompt == tuple(tiny.tokenizer.encode_chat(CHAT) if parsed else encode(rendered))
    assert post(app, "completions", {"suffix": EOT}).status_code == 200
    messages = [{"role": "user", "content": EOT}]
    assert post(app, "chat/completions", {"messages": messages}).status_code == 200
    assert service.requests[-1].prompt == tuple(tiny.tokenizer.encode_chat(messages))


def test_a_prompt_that_looks_rendered_is_warned_of(tiny: dkv.DiffusionLM) -> None:
    app = app_of(FakeService(tiny), tiny)
    line = "prompt holds '<|eot_id|>' as plain text; send parse_special=true with a prompt that is rendered"
    assert post(app, "completions", {"prompt": ["a", EOT]}).json()["dkv"] == {"warnings": [line]}
    events = events_of(post(app, "completions", {"prompt": EOT, "stream": True, "n": 2}))
    assert [event.get("dkv") for event in events[:-1]] == [{"warnings": [line]}] + [None] * (len(events) - 2)
    for body in ({"prompt": "a"}, {"prompt": [1, 2]}, {"prompt": EOT, "parse_special": True}):
        assert "dkv" not in post(app, "completions", body).json()
    assert "dkv" not in post(app, "chat/completions", {"messages": [{"role": "user", "content": EOT}]}).json()


@pytest.mark.parametrize("gap", [{"suffix": "b"}, {"canvas": True, "prompt": "a{mask}"}])
def test_rendered_prompts_do_not_go_with_infilling(gap: dict[str, Any], tiny: dkv.DiffusionLM) -> None:
    response = post(app_of(FakeService(tiny), tiny), "completions", {**gap, "parse_special": True})
    assert response.status_code == 400
    assert error_of(response)["param"] == "parse_special"


def test_a_conversation_has_a_bound_of_messages(tiny: dkv.DiffusionLM) -> None:
    app = app_of(FakeService(tiny), tiny, Limits(messages=3, default_tokens=32))
    assert post(app, "chat/completions", {"messages": CHAT * 3}).status_code == 200
    response = post(app, "chat/completions", {"messages": CHAT * 4})
    assert (response.status_code, error_of(response)["param"]) == (400, "messages")
    assert error_of(response)["message"] == "messages: 4 of them exceed the limit of 3; send fewer"


def test_the_bound_of_messages_hits_no_real_client() -> None:
    assert Limits().messages >= 1000


EMPTIES: dict[str, dict[str, Any]] = {
    "prompts": {"prompt": [""] * 200_000},
    "lists": {"prompt": [[]] * 300_000},
    "no prompts": {"prompt": [{}] * 300_000},
    "ids and texts": {"prompt": [1, "a"] * 100_000},
    "stops": {"stop": ["a"] * 200_000},
    "braces": {"prompt": "{" * 900_000, "canvas": True},
    "holes": {"prompt": "{mask}" * 150_000, "canvas": True},
    "a long cache": {"cache": "dkv-decode:" + "a=1," * 200_000},
    "a long name": {"model": "x" * 900_000},
    "fields": {f"f{number}": 1 for number in range(60_000)},
    "no messages": {"messages": [{}] * 300_000},
    "numbers": {"messages": [1] * 400_000},
    "parts": {"messages": [{"role": "user", "content": [1] * 400_000}]},
    "controls": {"messages": [{"role": "user", "content": EOT * 80}] * 1000},
    "many controls": {"messages": [{"role": "user", "content": EOT}] * 15_000},
}


@pytest.mark.parametrize("name", EMPTIES)
def test_a_large_body_costs_seconds_at_most_and_its_answer_is_short(name: str, tiny: dkv.DiffusionLM) -> None:
    app, body = app_of(FakeService(tiny), tiny), EMPTIES[name]
    start = time.process_time()
    response = post(app, "chat/completions" if "messages" in body else "completions", body)
    assert time.process_time() - start < 10
    assert response.status_code in (400, 404)
    assert len(error_of(response)["message"]) < 1100


@pytest.mark.parametrize("inside", ["[", '{"a":', "[[],"])
@pytest.mark.parametrize("field", ["prompt", "metadata", "nothing"])
def test_deep_bodies_are_refused(inside: str, field: str, tiny: dkv.DiffusionLM) -> None:
    content = f'{{"model": "fake", "{field}": ' + inside * 150_000
    headers = {"content-type": "application/json"}
    response = ask(app_of(FakeService(tiny), tiny), "POST", "/v1/completions", content=content, headers=headers)
    assert response.status_code == 400
    assert error_of(response)["message"]


class Slow:
    """A tokenizer that works until nobody waits for it."""

    has_template = True

    def __init__(self) -> None:
        self.started, self.ended = threading.Event(), threading.Event()

    def encode_chat(self, prompt: Any, attend: Any) -> list[int]:
        """Ids, after a minute."""
        self.started.set()
        try:
            for _ in range(6000):
                time.sleep(0.01)
                attend()
        finally:
            self.ended.set()
        return [1]


def test_encoding_ends_when_the_client_is_gone(tiny: dkv.DiffusionLM) -> None:
    slow = Slow()
    lm = dkv.DiffusionLM(tiny.model, cast(Any, slow))
    backend = ModelService(lm, Limits(), "fake", service=cast(Service, None), defaults=Defaults.of(lm))
    body = ChatBody.model_validate({"model": "fake", "messages": CHAT})

    async def leave() -> None:
        asking = asyncio.ensure_future(backend.requests(body, [CHAT], "messages"))
        while not slow.started.is_set():
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        while not slow.ended.is_set():
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(leave(), 30))


def failing(directory: Path, template: str, tiny: dkv.DiffusionLM) -> dkv.DiffusionLM:
    from dkv.tokenizer import load_tokenizer

    return dkv.DiffusionLM(tiny.model, load_tokenizer(write_tokenizer(directory, template)))


@pytest.mark.parametrize(
    "template", ["{% for %}", "{{ 'a' * 10**10 }}", "{% for m in range(99999) %}" * 3 + "{% endfor %}" * 3]
)
def test_a_template_of_the_checkpoints_that_cannot_be_run_is_the_servers_fault(
    template: str, tmp_path: Path, tiny: dkv.DiffusionLM
) -> None:
    lm = failing(tmp_path, template, tiny)
    app = app_of(FakeService(lm), lm)
    response = post(app, "chat/completions", {})
    assert (response.status_code, error_of(response)["code"]) == (500, "checkpoint_failed")
    assert str(tmp_path) not in response.text
    assert post(app, "completions", {"prompt": "Hi"}).status_code == 200


def test_a_conversation_that_a_template_refuses_is_the_clients_fault(tmp_path: Path, tiny: dkv.DiffusionLM) -> None:
    refusing = "{% if messages|length > 1 %}{{ raise_exception('one') }}{% endif %}{{ messages[0].content }}"
    lm = failing(tmp_path, refusing, tiny)
    response = post(app_of(FakeService(lm), lm), "chat/completions", {"messages": CHAT * 2})
    assert response.status_code == 400
    assert "the model's chat template does not take them: one" in error_of(response)["message"]


def test_others_are_answered_while_large_prompts_are_encoded(tiny: dkv.DiffusionLM) -> None:
    async def ask_all() -> list[httpx.Response]:
        async with client_of(app_of(FakeService(tiny), tiny)) as client:
            large = {"model": "fake", "messages": [{"role": "user", "content": EOT * 80}] * 1000}
            asked = [client.post("/v1/chat/completions", json=large) for _ in range(6)]
            return await asyncio.gather(*asked, client.get("/health"))

    *refused, healthy = asyncio.run(ask_all())
    assert [response.status_code for response in refused] == [400] * 6
    assert healthy.status_code == 200
    assert json.loads(refused[0].text)["error"]["param"] == "messages"
