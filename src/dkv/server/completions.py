"""POST /v1/completions."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from dkv.server.openai_format import respond
from dkv.server.requests import ModelService
from dkv.server.schema import CompletionBody
from dkv.server.styles import STYLES

__all__ = ["completions"]

_ROUTE = "/v1/completions"


def completions(backend: ModelService) -> APIRouter:
    """The route, for a backend."""
    router = APIRouter()

    @router.post(_ROUTE, response_model=None)
    async def text_completions(body: CompletionBody) -> Response:
        """Continue texts."""
        return await respond(backend, STYLES[_ROUTE], body)

    return router
