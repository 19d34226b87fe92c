"""The official client against the embedded model on a real socket: its answers are those of `lm.generate`."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

import dkv
from dkv.engine import Engine, Service
from dkv.errors import BusyError, EngineError
from dkv.server import Limits, build
from tests.support.bodies import random_body
from tests.support.fake_service import FakeService, app_of
from tests.support.server_fixtures import Serve, served

QUESTION = "Tom has 3 boxes with 4 pens in each. Tom finds 5 more pens. How many pens does Tom have now?"
CHAT: Any = [{"role": "user", "content": QUESTION}]
SERVED: Any = {"gen_length": 64, "block_length": 64, "grow": True, "cache": "auto"}
"""What a plain request of up to 64 tokens gets."""


def client_at(address: str, key: str = "any") -> openai.OpenAI:
    """A client that does not hide failures by trying again."""
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def client(tiny: dkv.DiffusionLM) -> Iterator[openai.OpenAI]:
    """Of a server of the embedded model."""
    app = build(Service(Engine(tiny, memory=200_000_000)), tiny, Limits(max_tokens=256))
    with served(app) as address, client_at(address) as found:
        yield found


def test_the_model_is_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "dkv"


def test_a_chat_completion_is_what_generate_gives(client: openai.OpenAI, tiny: dkv.DiffusionLM) -> None:
    answer = client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=48, seed=3)
    expected = tiny.generate([CHAT], **SERVED, seed=3)[0]
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(expected.prompt_ids)
    assert answer.usage.completion_tokens == expected.stats.new_tokens
    assert answer.choices[0].dkv["rows_computed"] == expected.stats.rows_computed  # type: ignore[attr-defined]


def test_a_completion_is_what_generate_gives_without_the_template(client: openai.OpenAI, tiny: dkv.DiffusionLM) -> None:
    assert tiny.tokenizer is not None
    ids = tiny.tokenizer.encode_chat(QUESTION)
    for prompt in ("12+30=", ids):
        answer = client.completions.create(
            model="tiny", prompt=prompt, max_tokens=64, temperature=0.7, top_p=0.9, seed=4
        )
        expected = tiny.generate([prompt], **SERVED, chat=False, temperature=0.7, top_p=0.9, seed=4)[0]
        assert answer.choices[0].text == expected.text


def test_several_choices_have_consecutive_seeds(client: openai.OpenAI, tiny: dkv.DiffusionLM) -> None:
    ask = {"model": "tiny", "messages": CHAT, "max_tokens": 64, "temperature": 4.0, "n": 2}
    answer = client.chat.completions.create(**ask, seed=7)
    expected = [tiny.generate([CHAT], **SERVED, temperature=4.0, seed=seed)[0].text for seed in (7, 8)]
    assert [choice.message.content for choice in answer.choices] == expected
    assert expected[0] != expected[1]


def test_a_stop_text_ends_the_answer(client: openai.OpenAI, tiny: dkv.DiffusionLM) -> None:
    whole = tiny.generate([CHAT], **SERVED)[0].text or ""
    answer = client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=48, stop=["\n"])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (whole.split("\n")[0], "stop")
    assert "\n" in whole


def test_what_openai_does_not_know_goes_in_the_extra_body(client: openai.OpenAI, tiny: dkv.DiffusionLM) -> None:
    extra = {"cache": "none", "decoder": "threshold:tau=0.9", "block_length": 16, "steps": 32, "cfg_scale": 0.5}
    answer = client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=32, extra_body=extra)
    expected = tiny.generate([CHAT], gen_length=32, **extra)[0]  # type: ignore[arg-type]
    assert answer.choices[0].message.content == expected.text
    details = answer.choices[0].dkv  # type: ignore[attr-defined]
    assert details["rows_computed"] == details["rows_total"] == expected.stats.rows_total


def collected(stream: Any) -> tuple[str, str, list[str], Any]:
    """The text of a stream of chunks, how it ended, its drafts and its usage."""
    text, reason, drafts, usage = "", "", [], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += (choice.delta.content or "") if hasattr(choice, "delta") else choice.text
            reason = choice.finish_reason or reason
            drafts += [choice.dkv["draft"]] if "draft" in (getattr(choice, "dkv", None) or {}) else []
    return text, reason, drafts, usage


def check_streaming(client: openai.OpenAI, first: int, count: int) -> None:
    """Random requests give the same whole, streamed, and streamed with drafts."""
    drafted = 0
    for number in range(first, first + count):
        noise = random.Random(number)
        body: dict[str, Any] = {"model": "tiny", **random_body(noise)}
        make = client.chat.completions.create if noise.random() < 0.5 else client.completions.create
        body |= {"messages": CHAT} if make == client.chat.completions.create else {"prompt": f"{number}+{number}="}
        whole = make(**body)
        expected = whole.choices[0].message.content if hasattr(whole.choices[0], "message") else whole.choices[0].text
        counted = {"stream": True, "stream_options": {"include_usage": True}}
        drafting = {"extra_body": body["extra_body"] | {"draft": True}}
        for more in (counted, counted | drafting):
            text, reason, drafts, usage = collected(make(**body | more))
            assert (text, reason) == (expected, whole.choices[0].finish_reason), body
            assert usage == whole.usage
            assert more == counted | drafting or not drafts
            drafted += bool(drafts)
        assert whole.usage.completion_tokens <= body["max_tokens"]
    assert drafted > count / 2


def test_streams_give_the_same_as_whole_answers(client: openai.OpenAI) -> None:
    check_streaming(client, 0, 5)


@pytest.mark.slow
def test_streams_give_the_same_as_whole_answers_over_200_requests(client: openai.OpenAI) -> None:
    check_streaming(client, 1000, 200)


def test_each_kind_of_bad_request_raises_the_clients_own_error(lm: dkv.DiffusionLM, serve: Serve) -> None:
    limits = Limits(body=3000, default_tokens=16)
    address = serve(app_of(FakeService(lm), lm, limits, keys=("right",)))
    full = serve(app_of(FakeService(lm, error=(0, BusyError("full"))), lm, limits))
    failed = serve(app_of(FakeService(lm, error=(0, EngineError("gone"))), lm, limits))
    slow = serve(app_of(FakeService(lm, stall=1), lm, Limits(timeout=0.2, default_tokens=16)))
    good: dict[str, Any] = {"model": "fake", "prompt": "Hi"}
    cases: list[tuple[type[openai.APIStatusError], int, str, str, dict[str, Any]]] = [
        (openai.BadRequestError, 400, address, "right", {"temperature": -1}),
        (openai.AuthenticationError, 401, address, "wrong", {}),
        (openai.NotFoundError, 404, address, "right", {"model": "gpt-4"}),
        (openai.APIStatusError, 413, address, "right", {"prompt": "x" * 400_000}),
        (openai.RateLimitError, 429, full, "any", {}),
        (openai.InternalServerError, 503, failed, "any", {}),
        (openai.InternalServerError, 504, slow, "any", {}),
    ]
    for kind, status, where, key, more in cases:
        with client_at(where, key) as client, pytest.raises(kind) as caught:
            client.completions.create(**good | more)
        assert caught.value.status_code == status
        body: Any = caught.value.body
        assert set(body) == {"message", "type", "param", "code"}
        assert body["message"] in str(caught.value)


def test_an_error_in_a_stream_raises(lm: dkv.DiffusionLM, serve: Serve) -> None:
    address = serve(app_of(FakeService(lm, error=(3, EngineError("gone"))), lm))
    text = ""
    with client_at(address) as client, pytest.raises(openai.APIError, match="the engine has stopped"):  # noqa: PT012 - what came before
        for chunk in client.completions.create(model="fake", prompt="Hi", stream=True):
            text += chunk.choices[0].text
    assert text == "Hel"


def test_leaving_a_stream_frees_the_engine_within_a_step(tiny: dkv.DiffusionLM, serve: Serve) -> None:
    service = Service(Engine(tiny))
    with client_at(serve(build(service, tiny))) as client:
        stream = client.completions.create(
            model="tiny", prompt="1+1=", max_tokens=256, stream=True, n=2, extra_body={"draft": True}
        )
        next(iter(stream))
        assert service.status().active == 2
        stream.close()
        steps = service.status().steps
        while service.status().active:
            assert service.status().steps <= steps + 20  # some pass before the socket tells
            assert service.failed is None
            time.sleep(0.005)
    assert service.status().requests_cancelled == 2
    assert service.status().memory_used == 0
