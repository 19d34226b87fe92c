"""Fields of other servers' clients: taken at the values that change nothing, refused in one line at others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import dkv
from dkv.server.client_fields import DROPPED, NEUTRAL
from dkv.server.schema import ChatBody, CompletionBody
from tests.support.fake_service import FakeService, app_of, error_of, events_of, post

PATHS = ("completions", "chat/completions")
KNOWN = {"completions": CompletionBody.model_fields, "chat/completions": ChatBody.model_fields}
VLLM_BENCH = {
    "repetition_penalty": 1.0, "min_p": 0.0, "top_k": -1, "top_p": 1.0, "ignore_eos": False, "logprobs": None,
    "stream_options": {"include_usage": True}, "temperature": 0.0, "max_tokens": 16.0,
}  # fmt: skip
COMMON = {
    "add_generation_prompt": True, "bad_words": [], "best_of": 1, "chat_template_kwargs": {},
    "continue_final_message": False,
    "early_stopping": False, "echo": False, "guided_json": None, "guided_regex": None, "ignore_eos": False,
    "include_stop_str_in_output": False, "length_penalty": 1.0, "logprobs": False, "min_p": 0, "min_tokens": 0,
    "priority": 0, "prompt_logprobs": None, "repetition_penalty": 1, "return_token_ids": False,
    "skip_special_tokens": True, "spaces_between_special_tokens": True, "stop_token_ids": [],
    "stream_options": {"include_usage": False}, "structured_outputs": None, "top_k": 0, "top_p": 1,
    "truncate_prompt_tokens": None, "use_beam_search": False, "no_such_field": None,
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fields", [VLLM_BENCH, COMMON], ids=["vllm-bench", "common"])
def test_what_other_servers_clients_send_by_default_changes_nothing(
    lm: dkv.DiffusionLM, path: str, fields: dict[str, Any]
) -> None:
    service = FakeService(lm)
    app = app_of(service, lm)
    assert post(app, path, {"max_tokens": 16, "seed": 1}).status_code == 200
    assert post(app, path, {"max_tokens": 16, "seed": 1, **fields}).status_code == 200
    plain, given = service.requests
    assert given.settings.top_p in (None, 1.0)  # both: no filter
    assert (plain.prompt, plain.seed) == (given.prompt, given.seed)
    assert plain.settings == replace(given.settings, top_p=None)


@pytest.mark.parametrize("path", PATHS)
def test_every_neutral_value_of_the_table_is_taken(lm: dkv.DiffusionLM, path: str) -> None:
    app = app_of(FakeService(lm), lm)
    for name, field in NEUTRAL.items():
        for value in (None, *field.values):
            assert post(app, path, {name: value}).status_code == 200, (name, value)
    assert post(app, path, dict.fromkeys(DROPPED, "x")).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_every_other_value_is_refused_by_the_clients_own_name(lm: dkv.DiffusionLM, path: str) -> None:
    app = app_of(FakeService(lm), lm)
    for name in NEUTRAL.keys() - KNOWN[path].keys():
        response = post(app, path, {name: {"x": 3}})
        error = error_of(response)
        assert (response.status_code, error["param"]) == (400, name)
        assert error["message"].startswith(name)


@pytest.mark.parametrize(
    "field", ["max_tokens", "n", "seed", "block_length", "steps", "min_tokens", "top_k", "prompt", "suffix"]
)
def test_whole_numbers_may_be_written_with_a_point(lm: dkv.DiffusionLM, field: str) -> None:
    value: Any = {"prompt": [[7.0, 8.0]], "suffix": [9.0], "n": 2.0, "steps": 4.0}.get(field, 4.0)
    service = FakeService(lm)
    assert post(app_of(service, lm), "completions", {"max_tokens": 4, field: value}).status_code == 200
    assert all(type(token) is int for token in service.requests[0].prompt)
    broken = [[7.5]] if field in ("prompt", "suffix") else 4.5
    assert post(app_of(service, lm), "completions", {"max_tokens": 4, field: broken}).status_code == 400


def test_ignoring_the_end_of_the_text_is_honoured(lm: dkv.DiffusionLM) -> None:
    service = FakeService(lm, "abcdefghijklmnop")
    answer = post(app_of(service, lm), "completions", {"max_tokens": 10, "block_length": 4, "ignore_eos": True}).json()
    settings = service.requests[0].settings
    assert (settings.stop_at_eos, settings.min_tokens, settings.gen_length) == (False, 12, 12)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 10


def test_usage_so_far_is_in_every_chunk_where_it_is_asked_for(lm: dkv.DiffusionLM) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"n": 2, "stream": True, "stream_options": options}
    events = events_of(post(app_of(FakeService(lm, "abc"), lm), "completions", body))[:-1]
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1], events[-1]["choices"]) == (1, 6, [])
    assert all(event["usage"]["total_tokens"] > event["usage"]["completion_tokens"] for event in events)


def test_stream_options_without_a_stream_change_nothing(lm: dkv.DiffusionLM) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    assert post(app_of(FakeService(lm), lm), "completions", {"stream_options": options}).status_code == 200


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "Hi", "type": "text"},
        {"role": "user", "content": "Hi", "type": "message", "name": None},
        {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "content": [{"text": "H"}, "i"]},
        {"role": "user", "content": "Hi", "name": "Bob_1"},
    ],
)
def test_messages_as_clients_write_them(lm: dkv.DiffusionLM, message: dict[str, Any]) -> None:
    service = FakeService(lm)
    assert post(app_of(service, lm), "chat/completions", {"messages": [message]}).status_code == 200
    assert lm.tokenizer is not None
    assert service.requests[0].prompt == tuple(lm.tokenizer.encode_chat("Hi"))


def test_an_assistants_message_may_have_no_content_and_a_tools_message_may_be_the_last(lm: dkv.DiffusionLM) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "7", "tool_call_id": "call_1"},
    ]
    service = FakeService(lm)
    assert post(app_of(service, lm), "chat/completions", {"messages": messages}).status_code == 200
    assert lm.tokenizer is not None
    conversation = [{"role": m["role"], "content": m["content"] or ""} for m in messages]
    assert service.requests[0].prompt == tuple(lm.tokenizer.encode_chat(conversation))


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}, "tool calling is not supported"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[3].content"),
        ({"role": "user", "content": None}, "messages[3].content: is required"),
        ({"role": "user", "content": "a", "nmae": "b"}, "messages[3].nmae: there is no such field; did you mean name?"),
        ({"role": "user", "content": " "}, "messages[3].content is empty"),
        ({"role": "assistant", "content": "a"}, "messages[3].role"),
    ],
)
def test_what_is_wrong_with_a_message_is_said_with_its_place(
    lm: dkv.DiffusionLM, message: dict[str, Any], says: str
) -> None:
    before = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "a"},
    ]
    error = error_of(post(app_of(FakeService(lm), lm), "chat/completions", {"messages": [*before, message]}))
    assert error["param"] == "messages"
    assert says in error["message"]
