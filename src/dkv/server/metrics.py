"""GET /metrics, for Prometheus: what the engine counts, read at each scrape, and the requests by route and status."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

if TYPE_CHECKING:
    from dkv.engine import Service, Status

__all__ = ["Meters"]

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Meters:
    """The metrics of one application, in a registry of their own."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("dkv_http_requests", "Requests", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "dkv_http_request_seconds",
            "Seconds to a request's end",
            ["route"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.inside = Gauge("dkv_http_requests_open", "Requests being handled", registry=self.registry)
        self.registry.register(_Engine(service))

    @property
    def router(self) -> APIRouter:
        """The route."""
        router = APIRouter()

        @router.get("/metrics", response_model=None)
        async def metrics() -> Response:
            """In Prometheus's text format."""
            return Response(generate_latest(self.registry), headers={"content-type": CONTENT_TYPE_LATEST})

        return router


class _Engine(Collector):
    """The engine's own counts, as they stand."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        status = self._service.status()
        yield from (GaugeMetricFamily(name, text, value=value) for name, text, value in _gauges(status))
        yield from (CounterMetricFamily(name, text, value=value) for name, text, value in _counters(status))

    def describe(self) -> Sequence[Metric]:
        """Nothing ahead: the engine may not run yet."""
        return ()


def _gauges(status: Status) -> Iterator[tuple[str, str, float]]:
    yield "dkv_requests_active", "Requests that the engine steps", status.active
    yield "dkv_requests_waiting", "Requests in the engine's queue", status.waiting
    yield "dkv_cache_bytes", "Bytes of cache in use", status.memory_used
    if status.memory_limit is not None:
        yield "dkv_cache_limit_bytes", "Bytes of cache at most", status.memory_limit


def _counters(status: Status) -> Iterator[tuple[str, str, float]]:
    yield "dkv_requests_started", "Requests that the engine began", status.requests_started
    yield "dkv_requests_finished", "Requests with a result", status.requests_finished
    yield "dkv_requests_cancelled", "Requests given up", status.requests_cancelled
    yield "dkv_tokens", "Tokens generated, of finished requests", status.tokens
    yield "dkv_rows_computed", "Rows through the network, averaged over layers", status.rows_computed
    yield "dkv_rows_saved", "Rows that a cache spared", max(0.0, status.rows_total - status.rows_computed)
    yield "dkv_steps", "Steps of the engine", status.steps
    yield "dkv_step_seconds", "Seconds in steps", status.step_seconds
