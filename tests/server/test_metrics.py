"""What Prometheus reads."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

import dkv
from tests.support.fake_service import FakeService, app_of, client_of


def scraped(lm: dkv.DiffusionLM, limit: int | None = None) -> dict[str, float]:
    """Every sample after one good and two bad requests, by its name and labels."""
    app = app_of(FakeService(lm, limit=limit), lm)

    async def run() -> str:
        async with client_of(app) as client:
            await client.post("/v1/completions", json={"model": "fake", "prompt": "Hi"})
            await client.get("/v1/models/a")
            await client.get("/v1/models/b")
            await client.get("/secret/path")
            await client.put("/v1/completions")
            return (await client.get("/metrics")).text

    text = asyncio.run(run())
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_are_counted_by_route_and_status(lm: dkv.DiffusionLM) -> None:
    found = scraped(lm)
    counts = {name: value for name, value in found.items() if name.startswith("dkv_http_requests_total")}
    assert counts == {
        "dkv_http_requests_total route=/v1/completions status=200": 1,
        "dkv_http_requests_total route=/v1/completions status=405": 1,
        "dkv_http_requests_total route=/v1/models/{id} status=404": 2,
        "dkv_http_requests_total route=other status=404": 1,
    }
    assert found["dkv_http_request_seconds_count route=/v1/completions"] == 2
    assert found["dkv_http_requests_open"] == 1  # the scrape itself


@pytest.mark.parametrize("limit", [None, 1000])
def test_the_engines_figures_are_those_of_its_status(lm: dkv.DiffusionLM, limit: int | None) -> None:
    found = scraped(lm, limit)
    engine = {name: value for name, value in found.items() if "http" not in name}
    expected = {
        "dkv_requests_active": 1, "dkv_requests_waiting": 2, "dkv_cache_bytes": 3, "dkv_requests_started_total": 4,
        "dkv_requests_finished_total": 5, "dkv_requests_cancelled_total": 6, "dkv_tokens_total": 7,
        "dkv_rows_computed_total": 8.5, "dkv_rows_saved_total": 11.5, "dkv_steps_total": 9,
        "dkv_step_seconds_total": 1.25,
    }  # fmt: skip
    assert engine == expected | ({} if limit is None else {"dkv_cache_limit_bytes": limit})


def test_two_applications_count_apart(lm: dkv.DiffusionLM) -> None:
    assert scraped(lm).keys() == scraped(lm).keys()
    assert scraped(lm)["dkv_http_requests_total route=other status=404"] == 1
