"""Prompts: a text, token ids or a conversation, as checked token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from dkv.errors import PromptError, SettingError
from dkv.model import ModelConfig
from dkv.tokens import Conversation, Tokenizer, is_conversation

__all__ = ["Prompt", "encoded", "listed"]

Prompt = str | Sequence[int] | Conversation


def listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or several, as a list of prompts. Raises PromptError."""
    if not _is_list(prompts) or is_conversation(prompts) or (prompts and all(isinstance(p, int) for p in prompts)):
        return [prompts]  # type: ignore[list-item]
    if not prompts:
        raise PromptError("prompt is empty; give a text, a list of token ids, or a list of either")
    return list(prompts)  # type: ignore[arg-type]


def encoded(
    prompt: Prompt,
    chat: bool | None,
    gen_length: int,
    tokenizer: Tokenizer | None,
    config: ModelConfig,
    parse_special: bool = False,
    attend: Callable[[], None] | None = None,
) -> list[int]:
    """A prompt as checked token ids. Arguments as in `DiffusionLM.generate`; attend: called again and again, so that it
    can end the work by raising. Raises PromptError and SettingError."""
    if type(parse_special) is not bool:
        raise SettingError(f"parse_special={parse_special!r} must be True or False")
    if isinstance(prompt, str) or is_conversation(prompt):
        ids = _tokenized(prompt, chat, tokenizer, config.mask_id, parse_special, attend)
    elif _is_list(prompt):
        ids = list(cast("Sequence[int]", prompt))
    else:
        raise PromptError(f"prompt: {prompt!r} is neither a text nor a list of token ids or messages")
    if not ids or (isinstance(prompt, str) and not prompt.strip()):
        raise PromptError("prompt is empty; give at least one token of text")
    for token in ids:
        if type(token) is not int or not 0 <= token < config.vocab:
            raise PromptError(f"prompt: {token!r} is not a token id below {config.vocab}")
    if len(ids) + gen_length > config.context:
        raise PromptError(
            f"prompt of {len(ids)} tokens and gen_length={gen_length} exceed the model's context of "
            f"{config.context}; shorten one of them"
        )
    return ids


def _tokenized(
    prompt: str | Conversation,
    chat: bool | None,
    tokenizer: Tokenizer | None,
    mask_id: int,
    parse_special: bool,
    attend: Callable[[], None] | None,
) -> list[int]:
    if tokenizer is None:
        raise PromptError("prompt: this checkpoint has no tokenizer; give a list of token ids")
    if parse_special:
        if chat:
            raise SettingError("parse_special=True is for a text that is rendered already; leave out chat=True")
        if not isinstance(prompt, str):
            raise SettingError("parse_special=True does not go with a conversation; give the rendered text")
        return tokenizer.encode_rendered(prompt, mask_id)
    if isinstance(prompt, str):
        use_template = tokenizer.has_template if chat is None else chat
        return tokenizer.encode_chat(prompt, attend) if use_template else tokenizer.encode(prompt)
    if chat is False:
        raise PromptError("chat=False: a conversation needs the chat template; give a text, or leave chat out")
    return tokenizer.encode_chat(prompt, attend)


def _is_list(prompt: object) -> bool:
    return isinstance(prompt, Sequence) and not isinstance(prompt, (str, bytes, bytearray))
