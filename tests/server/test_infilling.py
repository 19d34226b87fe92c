"""Infilling over HTTP: what stands between two texts, and in the holes of a canvas, is what the library fills in."""

from __future__ import annotations

from collections.abc import Callable

import openai
import pytest
from fastapi import FastAPI

import dkv
from dkv.server import Limits, build

BEFORE, AFTER = "def add(a, b):\n    return", "\n\nprint(add(1, 2))"


@pytest.fixture
def client(tiny: dkv.DiffusionLM, serve: Callable[[FastAPI], str]) -> openai.OpenAI:
    app = build(dkv.Service(dkv.Engine(tiny)), tiny, Limits())
    return openai.OpenAI(base_url=f"{serve(app)}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_suffix(client: openai.OpenAI, tiny: dkv.DiffusionLM, stream: bool) -> None:
    expected = tiny.infill(BEFORE, AFTER, gen_length=8, seed=0, cache="none").text
    with client:
        asked = {"model": "tiny", "prompt": BEFORE, "suffix": AFTER, "max_tokens": 8, "seed": 0}
        if stream:
            parts = [c.choices[0].text for c in client.completions.create(**asked, stream=True)]  # type: ignore
            assert "".join(parts) == expected
            return
        answer = client.completions.create(**asked)  # type: ignore[call-overload]
    assert answer.choices[0].text == expected
    assert answer.usage.completion_tokens == 8


def test_a_canvas_with_two_holes(client: openai.OpenAI, tiny: dkv.DiffusionLM) -> None:
    canvas = "def {mask:2}(a, b):\n    return {mask:3}\n"
    result = tiny.infill_canvas(canvas, seed=0, cache="none")
    with client:
        answer = client.completions.create(model="tiny", prompt=canvas, seed=0, extra_body={"canvas": True})
    assert answer.choices[0].text == result.generation.text
    assert "(a, b):" in answer.choices[0].text
