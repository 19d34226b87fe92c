"""Turns, as data sets keep a conversation, in the forms that a prompt takes: messages, or one text without a template.

A data set keeps (role, text) pairs, which cannot change and can be compared; the engine takes messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dkv.tokenizer import Tokenizer

__all__ = ["Turns", "as_prompt", "messages_of"]

Turns = tuple[tuple[str, str], ...]
"""A conversation as (role, text) pairs, the user's last."""


def as_prompt(asked: str | Turns, tokenizer: Tokenizer | None, chat: bool | None = None) -> str | list[dict[str, str]]:
    """What `lm.generate` takes for a text or a whole conversation: a conversation becomes messages, or one text where
    it does not go through a chat template. chat: as in `lm.generate`; tokenizer: the model's."""
    if isinstance(asked, str):
        return asked
    if chat is False or (chat is None and tokenizer is not None and not tokenizer.has_template):
        return _spoken(asked)
    return messages_of(asked)


def messages_of(turns: Turns) -> list[dict[str, str]]:
    """A conversation as chat templates take it."""
    return [{"role": role, "content": text} for role, text in turns]


def _spoken(turns: Turns) -> str:
    """A conversation as plain text, up to where the assistant speaks."""
    return "\n\n".join([*(f"{role}: {text}" for role, text in turns), "assistant:"])
