"""A request that fails on the way is answered by 500; everybody else gets what they get alone, then and afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, ClassVar

import httpx
import pytest

import dkv
from dkv.core.policy import Plan, Step
from dkv.engine import Engine, Service
from dkv.server import Limits, build
from tests.support.fake_service import events_of
from tests.support.server_fixtures import served


class Theirs:
    """A policy of another package, which breaks at its third forward."""

    name: ClassVar[str] = "theirs"

    def __init__(self, how: str = "raises") -> None:
        self.how = how

    def plan(self, step: Step) -> Plan:
        if bool((step.num_forwards == 2).any()):
            if self.how == "raises":
                raise RuntimeError("/srv/secret")
            if self.how == "exits":
                raise SystemExit(1)
            while self.how == "loops":
                pass
            return None  # type: ignore[return-value]
        return Plan(step.canvas.live)


@pytest.fixture(scope="module")
def address(lm: dkv.DiffusionLM) -> Iterator[str]:
    """A server on which the package is installed. All tests ask this one: none may harm the next."""
    found = {**dkv.caches.known_caches(), "theirs": Theirs}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dkv.caches.CACHES.known", lambda: found)
        with served(build(Service(Engine(lm, patience=0.5)), lm, Limits(), name="tiny")) as place:
            yield place


FIELDS: list[dict[str, Any]] = [
    {"cache": "dkv-decode"},
    {"cache": "dllm-cache", "temperature": 0.7, "seed": 4},
    {"decoder": "threshold"},
]


def body(number: int, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": f"{number}+{number}=", "max_tokens": 8, **more}


@pytest.fixture(scope="module")
def expected(address: str) -> list[str]:
    """What each of FIELDS gets alone."""
    answers = [httpx.post(f"{address}/v1/completions", json=body(3, **fields), timeout=60) for fields in FIELDS]
    return [answer.json()["choices"][0]["text"] for answer in answers]


@pytest.mark.parametrize("how", ["raises", "exits", "loops", "gives nothing"])
def test_a_policy_that_breaks_is_one_requests_500(address: str, expected: list[str], how: str) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(base_url=address, timeout=120) as client:

            async def ask(**fields: Any) -> httpx.Response:
                return await client.post("/v1/completions", json=body(3, **fields))

            bad: dict[str, Any] = {"cache": f"theirs:how={how}"}
            *good, broken, stream = await asyncio.gather(
                *(ask(**fields) for fields in FIELDS), ask(**bad), ask(**bad, stream=True, draft=True)
            )
            assert [answer.status_code for answer in good] == [200] * len(FIELDS)
            assert [answer.json()["choices"][0]["text"] for answer in good] == expected
            assert broken.status_code == 500
            error = broken.json()["error"]
            assert (error["code"], error["type"]) == ("request_failed", "server_error")
            assert error["message"].startswith("cache='theirs'")
            assert "secret" not in broken.text + stream.text
            assert "Traceback" not in broken.text + stream.text
            told = events_of(stream)[-1] if stream.status_code == 200 else stream.json()  # as it had begun or not
            assert told["error"]["code"] == "request_failed"
            again = await asyncio.gather(*(ask(**fields) for fields in FIELDS))
            assert [answer.json()["choices"][0]["text"] for answer in again] == expected
            assert (await client.get("/ready")).status_code == 200
            metrics = (await client.get("/metrics")).text
            assert "dkv_requests_active 0.0" in metrics
            assert "dkv_cache_bytes 0.0" in metrics

    asyncio.run(main())


@pytest.mark.parametrize(
    "fields",
    [
        {"decoder": "local-leap:reach=9223372036854775807"},
        {"decoder": "local-leap:reach=2147483647"},
        {"decoder": "local-leap:reach=4611686018427387903"},
        {"cache": "dkv-greedy:window=9223372036854775807"},
        {"cache": "x" * 100_000},
        {"cfg_scale": 1e308},
        {"eos_penalty": 1e308},
        {"temperature": 1e-300},
        {"steps": 1 << 70},
        {"top_k": 1 << 70},
        {"seed": 1 << 70},
        {"min_tokens": 1 << 70},
    ],
)
def test_a_number_beyond_all_bounds_is_answered_at_once(address: str, fields: dict[str, Any]) -> None:
    for _ in range(2):
        answer = httpx.post(f"{address}/v1/completions", json=body(4, **fields), timeout=60)
        assert answer.status_code in (200, 400)
        assert len(answer.text) < 2000
    assert httpx.post(f"{address}/v1/completions", json=body(4), timeout=60).status_code == 200


@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "Infinity", "1" + "0" * 5000])
@pytest.mark.parametrize("field", ["temperature", "cfg_scale", "eos_penalty", "steps", "seed", "top_k", "max_tokens"])
def test_numbers_that_json_writes_and_no_field_takes(address: str, field: str, number: str) -> None:
    text = f'{{"model": "tiny", "prompt": "1", "{field}": {number}}}'
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{address}/v1/completions", content=text, headers=headers, timeout=60)
    assert answer.status_code == 400
    assert len(answer.text) < 2000
