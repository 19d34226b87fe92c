"""POST /v1/completions."""

from __future__ import annotations

from typing import Any, cast

from fastapi import APIRouter
from starlette.responses import Response

from dkv.server.backend import Backend, Prompt
from dkv.server.reply import respond
from dkv.server.schema import CompletionBody

__all__ = ["completions"]


class _Style:
    """Bare texts."""

    prompt, prefix, whole, chunk = "prompt", "cmpl", "text_completion", "text_completion"

    def choice(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def opening(self) -> dict[str, Any]:
        return {"text": ""}

    def delta(self, text: str) -> dict[str, Any]:
        return {"text": text}


def completions(backend: Backend) -> APIRouter:
    """The route, for a backend."""
    router = APIRouter()

    @router.post("/v1/completions", response_model=None)
    async def text_completions(body: CompletionBody) -> Response:
        """Continue texts."""
        return await respond(backend, _Style(), body, _prompts(body.prompt))

    return router


def _prompts(given: str | list[int] | list[str] | list[list[int]]) -> list[Prompt]:
    """One prompt or several, as a list."""
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        return [given]
    return list(cast("list[Prompt]", given))
