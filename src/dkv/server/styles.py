"""How the two endpoints write their answers: chat completions with messages, completions with bare texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from dkv.server.requests import Prompt
from dkv.server.schema import ChatBody, CommonRequest, CompletionBody, Message

__all__ = ["STYLES", "Style"]


class Style(Protocol):
    """How an endpoint writes its answers. prompt: the field that prompts are in; prefix: of ids; whole, chunk: the
    names of its two objects."""

    prompt: str
    prefix: str
    whole: str
    chunk: str

    def prompts(self, body: CommonRequest) -> Sequence[Prompt]:
        """The prompts of a body."""

    def choice(self, text: str) -> dict[str, Any]:
        """What holds the text in a whole choice."""

    def opening(self) -> dict[str, Any]:
        """A choice's first chunk, before any text."""

    def delta(self, text: str) -> dict[str, Any]:
        """What holds the text in a chunk's choice."""


class _ChatStyle:
    """Messages, and deltas of them."""

    prompt, prefix, whole, chunk = "messages", "chatcmpl", "chat.completion", "chat.completion.chunk"

    def prompts(self, body: CommonRequest) -> Sequence[Prompt]:
        return [[_message(message) for message in cast("ChatBody", body).messages]]

    def choice(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def opening(self) -> dict[str, Any]:
        return {"delta": {"role": "assistant", "content": ""}}

    def delta(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}


def _message(message: Message) -> dict[str, str]:
    """As dkv writes messages: the developer's are the system's."""
    labels = {"name": message.name, "tool_call_id": message.tool_call_id}
    given = {label: text for label, text in labels.items() if text is not None}
    return {"role": "system" if message.role == "developer" else message.role, "content": message.content, **given}


class _CompletionStyle:
    """Bare texts."""

    prompt, prefix, whole, chunk = "prompt", "cmpl", "text_completion", "text_completion"

    def prompts(self, body: CommonRequest) -> Sequence[Prompt]:
        given = cast("CompletionBody", body).prompt
        is_one = isinstance(given, str) or (given and isinstance(given[0], int))
        return [cast("Prompt", given)] if is_one else list(cast("list[Prompt]", given))

    def choice(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def opening(self) -> dict[str, Any]:
        return {"text": ""}

    def delta(self, text: str) -> dict[str, Any]:
        return {"text": text}


STYLES: dict[str, Style] = {"/v1/chat/completions": _ChatStyle(), "/v1/completions": _CompletionStyle()}
"""By route."""
