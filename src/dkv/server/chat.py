"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from dkv.server.backend import Backend
from dkv.server.reply import respond
from dkv.server.schema import ChatBody, Message

__all__ = ["chat"]


class _Style:
    """Messages, and deltas of them."""

    prompt, prefix, whole, chunk = "messages", "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def opening(self) -> dict[str, Any]:
        return {"delta": {"role": "assistant", "content": ""}}

    def delta(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}


def chat(backend: Backend) -> APIRouter:
    """The route, for a backend."""
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: ChatBody) -> Response:
        """Answer a conversation."""
        return await respond(backend, _Style(), body, [[_message(message) for message in body.messages]])

    return router


def _message(message: Message) -> dict[str, str]:
    """As dkv writes messages: the developer's are the system's."""
    return {"role": "system" if message.role == "developer" else message.role, "content": message.content}
