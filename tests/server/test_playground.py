"""The playground's routes, on a service whose updates are written by hand: what the page is told, what is refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import json
import re
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.testclient import TestClient

import dkv
from dkv.caches import PRESETS, known_caches, make_cache
from dkv.decoders import known_decoders, make_decoder
from dkv.engine import Update
from dkv.errors import BusyError, DkvError, EngineError, SettingError
from dkv.outputs import Frame, Generation, Stats
from dkv.server.playground import playground
from tests.support.checkpoints import EOS, MASK
from tests.support.web import serving

ASKED: dict[str, Any] = {"prompt": "Hi", "gen_length": 3, "cache": "none", "decoder": "confidence", "seed": 7}
HEADERS = {"content-type": "application/json"}


class Scripted:
    """A service that plays what it is given, then waits for ever or ends; `closed` is set when a stream was closed."""

    def __init__(self, told: Sequence[Update | DkvError] = (), active: Sequence[int] = (), hangs: bool = False) -> None:
        self._told, self._hangs, self._active = told, hangs, list(active)
        self.opened, self.closed = threading.Event(), threading.Event()
        self.requests: list[Any] = []

    def status(self) -> SimpleNamespace:
        return SimpleNamespace(active=self._active.pop(0) if self._active else 1)

    async def stream(self, request: Any) -> AsyncIterator[Update]:
        self.requests.append(request)
        self.opened.set()
        try:
            for each in self._told:
                if isinstance(each, DkvError):
                    raise each
                yield each
            if self._hangs:
                await asyncio.Event().wait()
        finally:
            self.closed.set()


def client(service: Scripted, lm: dkv.DiffusionLM, **settings: Any) -> TestClient:
    app = FastAPI()
    app.include_router(playground(service, lm, **settings))  # type: ignore[arg-type]
    return TestClient(app)


def frame(step: int, ids: Sequence[int], kinds: str, prompt_computed: int, text: str) -> Frame:
    """kinds: a letter a position, as the page is told them."""
    committed, provisional = [k in "Cc" for k in kinds], [k in "Pp" for k in kinds]
    return Frame(step, list(ids), committed, provisional, [k.isupper() for k in kinds], prompt_computed, text)


def ids_of(lm: dkv.DiffusionLM, text: str) -> list[int]:
    """One of each letter."""
    assert lm.tokenizer is not None
    ids = lm.tokenizer.encode_bare(text)
    assert len(ids) == len(text)
    return ids


def updates(lm: dkv.DiffusionLM) -> list[Update]:
    """Three positions in three steps: the middle one first, then the end, then the first."""
    a, b, c = ids_of(lm, "abc")
    request = lm.request(**ASKED)
    done = Generation([1, 2], [a, b, EOS], "ab", "stop", Stats(3, 11.5, 15, 2, 0.25), request.settings, 7, "1")
    return [
        Update(1, (), "", frame(0, [c, b, MASK], "PCM", 2, "cb"), None),
        Update(1, (), "", frame(1, [c, b, EOS], "pcC", 0, "cb"), None),
        Update(1, (a, b, EOS), "ab", frame(2, [a, b, EOS], "Ccc", 0, "ab"), done),
    ]


def events(body: str) -> list[dict[str, Any]]:
    blocks = body.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def test_a_run_is_told_step_by_step(lm: dkv.DiffusionLM) -> None:
    service = Scripted(updates(lm), active=[1, 4, 0])
    answer = client(service, lm).post("/playground/run", json=ASKED)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    prompt_rows = len(lm.request(**ASKED).prompt)
    a, b, c = ids_of(lm, "abc")
    assert events(answer.text) == [
        {
            "event": "start", "cache": "none", "decoder": "confidence", "prompt_rows": prompt_rows, "gen_length": 3,
            "block_length": 3, "steps": 3, "grow": True, "cfg_scale": 0.0, "seed": 7,
        },
        {
            "event": "step", "cells": "PCM", "tokens": [[0, c, "c"], [1, b, "b"], [2, MASK, ""]],
            "prompt_computed": 2, "text": "", "draft": "cb",
        },
        {
            "event": "step", "cells": "pcC", "tokens": [[2, EOS, "<|endoftext|>"]],
            "prompt_computed": 0, "text": "", "draft": "cb",
        },
        {
            "event": "step", "cells": "Ccc", "tokens": [[0, a, "a"]],
            "prompt_computed": 0, "text": "ab", "draft": "ab",
        },
        {
            "event": "end", "text": "ab", "token_ids": [a, b, EOS], "finish_reason": "stop", "new_tokens": 2,
            "tokens_per_second": 8.0, "seconds": 0.25, "forwards": 3, "rows_computed": 11.5, "rows_total": 15,
            "company": 3,
        },
    ]  # fmt: skip
    assert service.closed.is_set()


def test_the_engine_gets_the_settings_of_the_body(lm: dkv.DiffusionLM) -> None:
    service = Scripted(updates(lm))
    body = ASKED | {
        "block_length": 3, "steps": 2, "temperature": 1, "cfg_scale": 0.5, "cache": "dkv-decode:refresh=3",
        "decoder": "threshold:tau=0.5",
    }  # fmt: skip
    assert client(service, lm).post("/playground/run", json=body).status_code == 200
    (request,) = service.requests
    assert request == replace(lm.request(**body), frames=True)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"{", "body: invalid JSON"),
        (b"[]", "body: input should be an object"),
        ({"gen_length": 3}, "prompt: field required"),
        (ASKED | {"gen_length": "3"}, "gen_length: input should be a valid integer"),
        (ASKED | {"gen_lenght": 3}, "gen_lenght: extra inputs are not permitted"),
        (ASKED | {"gen_length": 1025}, "gen_length=1025 is more than the playground takes; use at most 1024"),
        (ASKED | {"gen_length": 0}, "gen_length=0 must be a whole number of at least 1"),
        (ASKED | {"block_length": 2}, "gen_length=3 must be a multiple of block_length=2; use gen_length=4"),
        (ASKED | {"cache": "dkv-decod"}, "cache='dkv-decod': unknown name 'dkv-decod'; known: "),
        (ASKED | {"decoder": "threshold:tau=x"}, "decoder='threshold:tau=x': tau='x' is not a value of type float"),
        (ASKED | {"prompt": "  "}, "prompt is empty; give at least one token of text"),
        (ASKED | {"prompt": "long " * 2000}, "prompt of "),
        (b'{"prompt": "Hi", "temperature": NaN}', "temperature=nan must be a number"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(lm: dkv.DiffusionLM, body: Any, line: str) -> None:
    service = Scripted()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client(service, lm).post("/playground/run", content=data, headers=HEADERS)
    message = answer.json()["error"]["message"]
    assert (answer.status_code, message[: len(line)]) == (400, line)
    assert "\n" not in message
    assert not service.requests


def test_a_prompt_beyond_the_servers_limit_is_refused(lm: dkv.DiffusionLM) -> None:
    rows = len(lm.request(**ASKED).prompt)
    answer = client(Scripted(), lm, max_prompt=rows - 1).post("/playground/run", json=ASKED)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == f"prompt of {rows} tokens exceeds the limit of {rows - 1}; shorten it"
    assert client(Scripted(updates(lm)), lm, max_prompt=rows).post("/playground/run", json=ASKED).status_code == 200


def test_the_servers_limit_of_tokens_holds(lm: dkv.DiffusionLM) -> None:
    limited = client(Scripted(), lm, max_tokens=2)
    assert limited.post("/playground/run", json=ASKED).status_code == 400
    offered = limited.get("/playground/options").json()
    assert (offered["max_tokens"], offered["gen_length"]) == (2, 2)


def test_other_sites_cannot_start_a_run(lm: dkv.DiffusionLM) -> None:
    """What a page elsewhere may send without being asked for permission first: no JSON by its type."""
    service = Scripted(updates(lm))
    answer = client(service, lm).post(
        "/playground/run", content=json.dumps(ASKED), headers={"content-type": "text/plain"}
    )
    assert answer.status_code == 415
    assert not service.requests


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (BusyError("the queue is full"), 429, "1"),
        (EngineError("the engine has stopped"), 503, None),
        (SettingError("gen_length=3 could never fit"), 400, None),
    ],
)
def test_what_the_engine_refuses_is_a_status(
    lm: dkv.DiffusionLM, error: DkvError, status: int, retry: str | None
) -> None:
    answer = client(Scripted([error]), lm).post("/playground/run", json=ASKED)
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry)
    assert answer.json() == {"error": {"message": str(error)}}


def test_an_engine_that_fails_later_is_the_last_event(lm: dkv.DiffusionLM) -> None:
    service = Scripted([updates(lm)[0], EngineError("the engine has stopped: disk on fire")])
    told = events(client(service, lm).post("/playground/run", json=ASKED).text)
    assert [event.get("event") for event in told] == ["start", "step", None]
    assert told[-1] == {"error": {"message": "the engine has stopped: disk on fire"}}


@pytest.mark.parametrize("started", [True, False], ids=["between steps", "before the first step"])
def test_leaving_ends_the_request(lm: dkv.DiffusionLM, started: bool) -> None:
    service = Scripted(updates(lm)[:1] if started else [], hangs=True)
    app = FastAPI()
    app.include_router(playground(service, lm))  # type: ignore[arg-type]
    with serving(app) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        connection.request("POST", "/playground/run", json.dumps(ASKED), HEADERS)
        if started:
            assert b"start" in connection.getresponse().readline()
        assert service.opened.wait(10)
        assert not service.closed.wait(0.2)
        connection.close()
        assert service.closed.wait(5)


def test_the_guard_stands_before_all_but_the_page(lm: dkv.DiffusionLM) -> None:
    def guard(request: Request) -> None:
        if request.headers.get("authorization") != "Bearer open sesame":
            raise HTTPException(401, "give a valid API key")

    service = Scripted(updates(lm))
    guarded = client(service, lm, guard=guard)
    assert guarded.get("/").status_code == 200
    assert guarded.get("/playground/options").status_code == 401
    assert guarded.post("/playground/run", json=ASKED).status_code == 401
    assert not service.requests
    guarded.headers["authorization"] = "Bearer open sesame"
    assert guarded.get("/playground/options").status_code == 200
    assert guarded.post("/playground/run", json=ASKED).status_code == 200


def test_what_is_offered_can_be_asked_for(lm: dkv.DiffusionLM) -> None:
    offered = client(Scripted(), lm).get("/playground/options").json()
    assert offered["model"] == lm.name
    assert offered["context"] == lm.model.config.context
    assert offered["end_tokens"] == ["<|endoftext|>", "<|eot_id|>"]
    assert offered["presets"] == dict(PRESETS)
    assert offered["decoder"] == "confidence"
    assert [c["name"] for c in offered["caches"]] == list(known_caches())
    assert [d["name"] for d in offered["decoders"]] == list(known_decoders())
    for choice in offered["caches"]:
        assert make_cache(choice["spec"]) == make_cache(choice["name"])
    for choice in offered["decoders"]:
        assert make_decoder(choice["spec"]) == make_decoder(choice["name"])
    decode = next(c for c in offered["caches"] if c["name"] == "dkv-decode")
    assert decode["spec"] == "dkv-decode:refresh=8,delay=1,shift=un_right"
    assert decode["keys"] == ["refresh=8", "delay=1", "warmup (not set)", "shift=un_right"]
    assert decode["meaning"].startswith("dKV-Cache-Decode.")


def test_a_model_without_a_tokenizer_is_refused(bare_lm: dkv.DiffusionLM) -> None:
    with pytest.raises(SettingError, match="has no tokenizer"):
        playground(Scripted(), bare_lm)  # type: ignore[arg-type]


def test_the_page_may_run_its_own_script_and_style_alone(lm: dkv.DiffusionLM) -> None:
    answer = client(Scripted(), lm).get("/")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    for tag in ("script", "style"):
        (inside,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", answer.text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert policy.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert policy == {
        "default-src": "'none'", "connect-src": "'self'", "img-src": "data:", "base-uri": "'none'",
        "form-action": "'none'", "frame-ancestors": "'none'",
    }  # fmt: skip


def test_the_page_brings_nothing_from_outside_and_makes_no_html_of_text(lm: dkv.DiffusionLM) -> None:
    page = client(Scripted(), lm).get("/").text
    assert set(re.findall(r"https?://[^'\"\s)]*", page)) == {"http://www.w3.org/2000/svg"}  # a name, never fetched
    assert not re.search(r"\b(src|srcset|href)=[\"'](?!data:|#)", page)
    assert not re.search(
        r"@import|url\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|Function\(", page
    )
    assert not re.search(r"<[^>]+\s(style|on\w+)=", page)
