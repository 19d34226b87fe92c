"""What the two endpoints answer, whole and as events, over an engine that says what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

import dkv
from dkv.engine import Request, Update
from dkv.errors import BusyError, EngineError
from dkv.params import SERVED
from dkv.server.choices import answer
from dkv.server.requests import ModelService
from tests.support.fake_service import FakeService, app_of, error_of, events_of, post


def test_a_chat_completion_has_openais_shape(lm: dkv.DiffusionLM) -> None:
    service = FakeService(lm)
    answer = post(app_of(service, lm), "chat/completions", {"max_tokens": 32, "seed": 5}).json()
    assert answer["id"].startswith("chatcmpl-")
    assert answer["system_fingerprint"].startswith("fp_")
    assert (answer["object"], answer["model"]) == ("chat.completion", "fake")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello, world", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
            "dkv": {
                "seed": 5, "forwards": 12, "rows_computed": 10.0, "rows_total": 40, "seconds": 0.5,
                "settings": {
                    "cache": "none", "decoder": "confidence", "block_length": 64, "steps": 64, "grow": True,
                    "temperature": 0.0, "top_p": None, "top_k": None, "cfg_scale": 0.0,
                    "eos_penalty": 0.0, "repetition_penalty": 1.0,
                },
                "sources": dict.fromkeys(SERVED, "default"),
            },
        }
    ]  # fmt: skip
    prompt = len(service.requests[0].prompt)
    assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": 12, "total_tokens": prompt + 12}


def test_a_text_completion_has_openais_shape(lm: dkv.DiffusionLM) -> None:
    answer = post(app_of(FakeService(lm), lm), "completions", {"max_tokens": 5}).json()
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["logprobs"]) == ("Hello", "length", None)


def test_text_of_a_completion_goes_in_as_it_is_and_messages_through_the_template(lm: dkv.DiffusionLM) -> None:
    service = FakeService(lm)
    app = app_of(service, lm)
    post(app, "completions", {"prompt": "Hi"})
    post(app, "completions", {"prompt": [7, 8, 9]})
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    for message in ({"role": "user", "content": "Hi"}, {"role": "user", "content": parts}):
        post(app, "chat/completions", {"messages": [{"role": "developer", "content": "Be brief."}, message]})
    assert lm.tokenizer is not None
    conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    chat = tuple(lm.tokenizer.encode_chat(conversation))
    assert [r.prompt for r in service.requests] == [tuple(lm.tokenizer.encode("Hi")), (7, 8, 9), chat, chat]


def test_an_assistants_message_can_be_sent_back_as_the_client_keeps_it(lm: dkv.DiffusionLM) -> None:
    kept: dict[str, Any] = {
        "role": "assistant",
        "content": "Yes?",
        "refusal": None,
        "tool_calls": None,
        "annotations": [],
    }
    messages = [{"role": "user", "content": "Hi"}, kept, {"role": "user", "content": "Go on."}]
    assert post(app_of(FakeService(lm), lm), "chat/completions", {"messages": messages}).status_code == 200


def test_several_prompts_with_n_choices_each_are_numbered_and_seeded_in_order(lm: dkv.DiffusionLM) -> None:
    service = FakeService(lm)
    answer = post(app_of(service, lm), "completions", {"prompt": ["A", "BCD"], "n": 2, "seed": 10}).json()
    assert lm.tokenizer is not None
    prompts = [tuple(lm.tokenizer.encode(text)) for text in ("A", "A", "BCD", "BCD")]
    assert [(r.prompt, r.seed) for r in service.requests] == list(zip(prompts, (10, 11, 12, 13), strict=True))
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
    assert [c["dkv"]["seed"] for c in answer["choices"]] == [10, 11, 12, 13]
    assert answer["usage"]["prompt_tokens"] == len(prompts[0]) + len(prompts[2])
    assert answer["usage"]["completion_tokens"] == 4 * 12


def test_without_a_seed_each_request_draws_one_and_says_which(lm: dkv.DiffusionLM) -> None:
    app = app_of(FakeService(lm), lm)
    seeds = {post(app, "completions", {}).json()["choices"][0]["dkv"]["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_every_setting_reaches_the_engine(lm: dkv.DiffusionLM) -> None:
    service = FakeService(lm)
    given = {
        "max_tokens": 16, "block_length": 8, "steps": 4, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "cfg_scale": 1.5,
        "seed": 9, "cache": "dkv-greedy:refresh=2", "decoder": "random", "stop": ["x", "y"],
    }  # fmt: skip
    assert post(app_of(service, lm), "completions", given).status_code == 200
    settings = service.requests[0].settings
    expected = lm.request("Hi", gen_length=16, chat=False, **{k: v for k, v in given.items() if k != "max_tokens"})  # type: ignore[arg-type]
    assert settings == expected.settings


def test_null_is_a_fields_default(lm: dkv.DiffusionLM) -> None:
    service = FakeService(lm)
    names = ("max_tokens", "n", "seed", "stop", "stream", "stream_options", "temperature", "top_p", "logprobs", "tools")
    body = dict.fromkeys(names)
    assert (
        post(app_of(service, lm), "chat/completions", {**body, "user": "me", "presence_penalty": 0}).status_code == 200
    )
    settings = service.requests[0].settings
    assert (settings.gen_length, settings.temperature, settings.stop) == (64, 0.0, ())


def texts(events: list[Any], index: int = 0) -> str:
    """All deltas of a choice, joined."""
    choices = [c for event in events[:-1] for c in event["choices"] if c["index"] == index]
    return "".join(c["delta"].get("content", "") if "delta" in c else c["text"] for c in choices)


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_a_stream_opens_each_choice_and_ends_it(lm: dkv.DiffusionLM, path: str) -> None:
    app = app_of(FakeService(lm), lm)
    events = events_of(post(app, path, {"n": 2, "stream": True, "stream_options": {"include_usage": True}}))
    assert events[-1] == "[DONE]"
    assert len({(e["id"], e["created"], e["object"], e["system_fingerprint"]) for e in events[:-1]}) == 1
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["completion_tokens"] == 24
    assert all(event["usage"] is None for event in events[:-2])
    for index in (0, 1):
        own = [c for event in events[:-1] for c in event["choices"] if c["index"] == index]
        assert [c["finish_reason"] for c in own] == [None] * (len(own) - 1) + ["stop"]
        assert texts(events, index) == "Hello, world"
        if "chat" in path:
            assert own[0]["delta"] == {"role": "assistant", "content": ""}
            assert own[-1]["delta"] == {}
        else:
            assert own[0]["text"] == own[-1]["text"] == ""


def test_usage_is_streamed_only_when_asked_for(lm: dkv.DiffusionLM) -> None:
    events = events_of(post(app_of(FakeService(lm), lm), "completions", {"stream": True}))
    assert not [event for event in events[:-1] if "usage" in event or not event["choices"]]


def test_drafts_stand_beside_the_text_and_never_in_it(lm: dkv.DiffusionLM) -> None:
    service = FakeService(lm, "abc", drafts=["abXc", "abYc", "abcZ"])
    app = app_of(service, lm)
    drafted = events_of(post(app, "chat/completions", {"stream": True, "draft": True}))
    plain = events_of(post(app, "chat/completions", {"stream": True}))
    assert texts(drafted) == texts(plain) == "abc"
    choices = [c for event in drafted[:-1] for c in event["choices"]]
    assert [c["dkv"]["draft"] for c in choices if "draft" in c.get("dkv", {})] == ["bXc", "Yc", "Z"]
    assert not [c for event in plain[:-1] for c in event["choices"] if "draft" in c.get("dkv", {})]
    assert [r.frames for r in service.requests] == [True, False]


@pytest.mark.parametrize(("bound", "block"), [(5, 4), (1, 8), (7, 8), (8, 4), (12, 8)])
@pytest.mark.parametrize("stream", [False, True])
def test_max_tokens_is_never_exceeded(lm: dkv.DiffusionLM, bound: int, block: int, stream: bool) -> None:
    service = FakeService(lm, "abcdefghijklmnopqrstuvwxyz")
    app = app_of(service, lm)
    body = {"max_tokens": bound, "block_length": block, "stream": stream, "stream_options": None}
    if stream:
        events = events_of(post(app, "completions", {**body, "stream_options": {"include_usage": True}}))
        text, usage, ending = texts(events), events[-2]["usage"], events[-3]["choices"][0]
    else:
        answer = post(app, "completions", body).json()
        ending, usage = answer["choices"][0], answer["usage"]
        text = ending["text"]
    assert text == "abcdefghijklmnopqrstuvwxyz"[:bound]
    assert (usage["completion_tokens"], ending["finish_reason"]) == (bound, "length")
    assert service.requests[0].settings.gen_length == -(-bound // block) * block
    assert service.running == 0


def test_a_text_that_fits_max_tokens_exactly_ended_by_itself(lm: dkv.DiffusionLM) -> None:
    answer = post(app_of(FakeService(lm, "abcde"), lm), "completions", {"max_tokens": 5, "block_length": 8}).json()
    assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == ("abcde", "stop")


def test_a_stop_text_that_begins_before_the_cut_ends_the_choice(lm: dkv.DiffusionLM) -> None:
    """The engine would have stopped; here it is slower to see it than the cut."""
    body = {"max_tokens": 5, "block_length": 4, "stop": ["ef"]}
    answer = post(app_of(FakeService(lm, "abcdefghijkl", lag=1), lm), "completions", body).json()
    assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == ("abcd", "stop")
    assert answer["usage"]["completion_tokens"] == 4


FAILURES = [
    (BusyError("full"), 429, "queue_full"),
    (EngineError("gone"), 503, "engine_failed"),
    (KeyError("secret"), 500, "internal_error"),
]


@pytest.mark.parametrize(("error", "status", "code"), FAILURES)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_first_event_has_a_status(
    lm: dkv.DiffusionLM, error: Exception, status: int, code: str, stream: bool
) -> None:
    service = FakeService(lm, error=(0, error))
    response = post(app_of(service, lm), "completions", {"stream": stream, "n": 3})
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    assert "secret" not in response.text
    assert "gone" not in response.text  # the log has it
    assert response.headers["x-should-retry"] == ("true" if status == 429 else "false")
    assert service.running == 0


@pytest.mark.parametrize(("error", "status", "code"), FAILURES)
def test_a_later_error_is_the_last_event(lm: dkv.DiffusionLM, error: Exception, status: int, code: str) -> None:
    events = events_of(post(app_of(FakeService(lm, error=(3, error)), lm), "completions", {"stream": True}))
    assert events[-1]["error"]["code"] == code
    assert "".join(c["text"] for event in events[:-1] for c in event["choices"]) == "Hel"


def test_an_engine_that_ends_without_a_result_is_an_error(lm: dkv.DiffusionLM) -> None:
    class Short(FakeService):
        def _updates(self, request: Any, ids: list[int]) -> Any:
            return super()._updates(request, ids)[:-1]

    assert error_of(post(app_of(Short(lm), lm), "completions", {}))["code"] == "engine_failed"


def test_a_long_silence_is_filled_with_comments(lm: dkv.DiffusionLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dkv.server.choices._SILENCE", 0.02)
    service = FakeService(lm, "ab", slow=0.1)
    app = app_of(service, lm)
    response = post(app, "completions", {"stream": True})
    assert response.text.startswith(": wait\n\n")
    assert texts(events_of(response)) == "ab"
    assert post(app, "completions", {}).json()["choices"][0]["text"] == "ab"


class Endless:
    """A service whose answers have an update at every turn of the event loop, for ever."""

    async def stream(self, request: Request) -> AsyncIterator[Update]:
        while True:
            await asyncio.sleep(0)
            yield Update(0, text="a")


@pytest.mark.parametrize("turns", range(3))
def test_a_cancellation_that_meets_a_piece_is_not_lost(lm: dkv.DiffusionLM, turns: int) -> None:
    async def consume(backend: ModelService) -> None:
        async for _ in answer(backend, [lm.request("Hi", gen_length=8)], 8):
            pass

    async def cancel() -> None:
        backend = cast(ModelService, SimpleNamespace(service=Endless(), lm=lm))
        consuming = asyncio.create_task(consume(backend))
        for _ in range(20 + turns):
            await asyncio.sleep(0)
        consuming.cancel()
        done, _ = await asyncio.wait([consuming], timeout=2)
        consuming.cancel()
        assert done, "the answer goes on"

    asyncio.run(cancel())
