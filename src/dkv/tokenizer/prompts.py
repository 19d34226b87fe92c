"""Prompts: a text, token ids or a conversation, as checked token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from dkv.core.model import ModelConfig
from dkv.core.values import ArrayLike, as_index, plain
from dkv.errors import ContextError, PromptError, SettingError
from dkv.tokenizer import Conversation, Tokenizer, is_conversation

__all__ = ["Prompt", "encoded", "listed", "token_ids"]

Prompt = str | Sequence[int] | ArrayLike | Conversation


def listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or several, as a list of prompts; a matrix of token ids is several. Raises PromptError."""
    given = plain(prompts)
    if _is_list(given) and not is_conversation(given):
        given = [plain(prompt) for prompt in given]
    if not _is_list(given) or is_conversation(given) or (given and all(isinstance(p, int) for p in given)):
        return [given]
    if not given:
        raise PromptError("prompt is empty; give a text, a list of token ids, or a list of either")
    return list(given)


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
    prompt = plain(prompt)
    if isinstance(prompt, str) or is_conversation(prompt):
        ids = _tokenized(prompt, chat, tokenizer, config.mask_id, parse_special, attend)
    elif _is_list(prompt):
        ids = token_ids("prompt", cast("Sequence[int]", prompt), config.vocab)
    else:
        shown = " ".join(repr(prompt).split())
        raise PromptError(f"prompt: {shown} is neither a text nor a list of token ids or messages")
    if not ids or (isinstance(prompt, str) and not prompt.strip()):
        raise PromptError("prompt is empty; give at least one token of text")
    if len(ids) + gen_length > config.context:
        raise ContextError(
            f"prompt of {len(ids)} tokens and gen_length={gen_length} exceed the model's context of "
            f"{config.context}; shorten one of them",
            len(ids), gen_length, config.context,
        )  # fmt: skip
    return ids


def token_ids(argument: str, ids: Sequence[object], vocab: int) -> list[int]:
    """Token ids below `vocab` as Python's ints. Raises PromptError naming the argument."""
    found = [as_index(token) for token in ids]
    for token, number in zip(ids, found, strict=True):
        if number is None or not 0 <= number < vocab:
            shown = repr(plain(token)).replace("\n", " ")
            raise PromptError(f"{argument}: {shown[:60]} is not a token id below {vocab}", argument)
    return cast("list[int]", found)


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
