"""The model's context: its refusals have one code, and an answer without max_tokens takes what a prompt leaves."""

from __future__ import annotations

from typing import Any

import pytest

import dkv
from dkv.server import Limits
from tests.support.fake_service import FakeService, app_of, error_of, post

ROOMY = Limits(max_prompt=4096, max_tokens=4096, default_tokens=32)


def context(lm: dkv.DiffusionLM) -> int:
    return lm.model.config.context


@pytest.mark.parametrize("limits", [ROOMY, Limits(max_prompt=40, max_tokens=32, default_tokens=16)])
@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_a_prompt_beyond_the_context_has_the_code(lm: dkv.DiffusionLM, path: str, limits: Limits) -> None:
    for size in (context(lm), context(lm) + 1, 10 * context(lm)):
        text = "x" * size
        body = {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"prompt": text}
        for more in ({}, {"max_tokens": 8}):
            error = error_of(post(app_of(FakeService(lm), lm, limits), path, {**body, **more}))
            assert error["code"] == "context_length_exceeded"
            assert error["param"] == ("messages" if "chat" in path else "prompt")
            assert "gen_length" not in error["message"]
            assert ("max_tokens" in error["message"]) <= bool(more)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"prompt": "x" * 40, "max_tokens": 60}, "prompt of 40 tokens and max_tokens=60 exceed the model's context of"),
        ({"prompt": "x", "max_tokens": 4000}, "max_tokens=4000 exceed the model's context"),
        ({"prompt": "x", "max_tokens": 5000}, "max_tokens=5000 exceeds the limit of 4096"),
        ({"prompt": "x" * 5000}, "prompt of 5000 tokens exceeds the limit of 95; shorten it"),
        ({"prompt": "x" * 100}, "prompt of 100 tokens leaves no room for an answer in the model's context of 96"),
        ({"prompt": "x" * 90, "suffix": "y" * 90, "max_tokens": 4}, "prompt and suffix of 180 tokens leave no"),
        ({"prompt": "x" * 40, "min_tokens": 90}, "prompt of 40 tokens and min_tokens=90 exceed the model's context of"),
        ({"prompt": "x{mask:900}y", "canvas": True}, "its holes exceed the model's context"),
    ],
)
def test_prompt_and_answer_beyond_the_context_have_the_code(
    lm: dkv.DiffusionLM, body: dict[str, Any], says: str
) -> None:
    assert context(lm) < 100
    error = error_of(post(app_of(FakeService(lm), lm, ROOMY), "completions", body))
    assert error["code"] == "context_length_exceeded"
    assert says in error["message"]


@pytest.mark.parametrize("block", [None, 8, 16, 64])
def test_an_answer_without_max_tokens_takes_what_the_prompt_leaves(lm: dkv.DiffusionLM, block: int | None) -> None:
    service = FakeService(lm)
    for room in (31, 20, 9, 1):
        body = {"prompt": [7] * (context(lm) - room), "block_length": block, "steps": None}
        assert post(app_of(service, lm, ROOMY), "completions", body).status_code == 200
        settings = service.requests[-1].settings
        assert 0 < settings.gen_length <= room
        assert settings.gen_length > room - (block or 1)


def test_whole_blocks_that_do_not_fit_are_left_out_where_max_tokens_fits(lm: dkv.DiffusionLM) -> None:
    service = FakeService(lm)
    body = {"prompt": [7] * (context(lm) - 20), "max_tokens": 18, "block_length": 16}
    assert post(app_of(service, lm, ROOMY), "completions", body).status_code == 200
    assert service.requests[0].settings.gen_length == 16
