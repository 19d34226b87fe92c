"""GET /health: the process answers. GET /ready: it takes requests."""

from __future__ import annotations

from fastapi import APIRouter

from dkv.server.admission import Gate
from dkv.server.api_errors import ApiError
from dkv.server.requests import ModelService

__all__ = ["probes"]


def probes(backend: ModelService, gate: Gate) -> APIRouter:
    """The routes, for a backend and its gate."""
    router = APIRouter()

    @router.get("/health")
    async def health() -> dict[str, str]:
        """Alive, whatever else."""
        return {"status": "alive"}

    @router.get("/ready")
    async def ready() -> dict[str, str]:
        """Ready, or 503: shutting down, or the engine failed."""
        if gate.closed:
            raise ApiError(503, "the server is shutting down", code="shutting_down")
        if backend.service.failed is not None:
            raise ApiError(503, "the engine failed; restart the server", code="engine_failed")
        return {"status": "ready"}

    return router
