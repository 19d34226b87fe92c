"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from dkv.server.openai_format import respond
from dkv.server.requests import ModelService
from dkv.server.schema import ChatBody
from dkv.server.styles import STYLES

__all__ = ["chat"]

_ROUTE = "/v1/chat/completions"


def chat(backend: ModelService) -> APIRouter:
    """The route, for a backend."""
    router = APIRouter()

    @router.post(_ROUTE, response_model=None)
    async def chat_completions(body: ChatBody) -> Response:
        """Answer a conversation."""
        return await respond(backend, STYLES[_ROUTE], body)

    return router
