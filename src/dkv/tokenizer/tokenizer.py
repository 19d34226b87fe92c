"""Prompts (texts, conversations, token ids) to checked token ids, and ids back to text.

Text that a user gives can never inject control tokens: the strings of special tokens inside it are encoded as plain
text, also inside a chat template, in every message of a conversation.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenizers import Encoding
from tokenizers import Tokenizer as FastTokenizer

from dkv.core.values import ArrayLike, as_index, plain
from dkv.errors import CheckpointError, ContextError, PromptError, SettingError
from dkv.tokenizer.chat import ChatTemplate, Conversation, check_printed, checked, is_conversation, well_formed
from dkv.tokenizer.chat_formats import TURN_ENDS
from dkv.tokenizer.chat_loading import Chat, load_chat
from dkv.tokenizer.tokenizer_bounds import check_bounds, is_tokenizer_error
from dkv.tokenizer.tokenizer_files import one_line, settings_of
from dkv.tokenizer.tokenizer_json import specification

if TYPE_CHECKING:  # torch is not needed for texts
    from dkv.core.model import ModelConfig

__all__ = ["Prompt", "Tokenizer", "encoded", "listed", "load_tokenizer", "token_ids"]

Prompt = str | Sequence[int] | ArrayLike | Conversation
"""One prompt: a text, token ids or a conversation."""

_SEARCHED = 1 << 16
_log = logging.getLogger("dkv.tokenizer")


class Tokenizer:
    """The content of a `tokenizer.json`, with the way to conversations that goes with it, if there is one.

    added: ids of the tokens outside the text's vocabulary, by name; turn_end_ids: those that end a turn, none in a
    vocabulary without them (LLaDA-Base); chat_format: "own" for the checkpoint's template, "llada" or "dream" for dkv's
    own of that family, None without one; chat_note: why the checkpoint's own template is not used, or fails.
    """

    def __init__(self, serialized: str, chat: Chat | None = None) -> None:
        chat = chat or Chat()
        self._templated, self._plain = FastTokenizer.from_str(serialized), FastTokenizer.from_str(serialized)
        self._plain.encode_special_tokens = True
        tokens = self._plain.get_added_tokens_decoder()
        self.added = {token.content: number for number, token in tokens.items()}
        self.turn_end_ids = tuple(number for name, number in self.added.items() if name in TURN_ENDS)
        self.chat_format, self.chat_note = chat.format, chat.note
        unknown = getattr(self._plain.model, "unk_token", None)  # what text may turn into
        self._control = {number: t.content for number, t in tokens.items() if t.special and t.content != unknown}
        self._template = chat.template

    @property
    def has_template(self) -> bool:
        """Whether prompts can go through a chat template."""
        return self._template is not None

    def encode(self, text: str) -> list[int]:
        """Text as it is, with what the tokenizer itself puts around a text (often nothing)."""
        encoding = self._as_text(well_formed(text))
        ids: list[int] = _run(lambda: self._plain.post_process(encoding).ids)
        return ids

    def encode_bare(self, text: str) -> list[int]:
        """Text as it is, with nothing around it: a part of a longer text."""
        ids: list[int] = self._as_text(well_formed(text)).ids
        return ids

    def encode_rendered(self, text: str, mask_id: int) -> list[int]:
        """A text that went through a chat template already: the strings of control tokens in it are those tokens. The
        mask's stays text, since a mask is what the model fills in.

        What the tokenizer itself puts around a text is added where it is not there yet. Raises PromptError.
        """
        mask = self._control.get(mask_id)
        parts = [well_formed(text)] if mask is None else re.split(f"({re.escape(mask)})", well_formed(text))
        ids = [i for part in parts for i in (self._as_text(part).ids if part == mask else self._ids(part))]
        if mask_id in ids:
            raise PromptError("prompt: this tokenizer reads its mask token in it; leave it out, or give token ids")
        before, after = self._around()
        before = [] if ids[: len(before)] == before else before
        after = [] if after and ids[-len(after) :] == after else after
        return [*before, *ids, *after]

    def control_strings(self, text: str) -> list[str]:
        """The strings of control tokens that a text begins to hold, at most three; they are encoded as plain text."""
        start = text[:_SEARCHED]
        return [name for name in self._control.values() if name in start][:3]

    def render(self, prompt: str | Conversation) -> str:
        """A conversation, or a text as its one user message, as the chat template writes it. Raises PromptError, and
        CheckpointError for a template that cannot be run."""
        return self._chat(prompt).render(checked(prompt))

    def encode_chat(self, prompt: str | Conversation, attend: Callable[[], None] | None = None) -> list[int]:
        """A conversation, or a text as its one user message, ready for the assistant's answer.

        attend: called again and again, so that it can end the work by raising. Raises PromptError for a conversation
        that is none, and where the template fails or cannot keep control tokens in a message apart; CheckpointError for
        a template that cannot be run.
        """
        attend = attend or _pass
        chat, messages = self._chat(prompt), checked(prompt)
        attend()
        rendered = chat.render(messages)
        check_printed(messages, rendered)
        ids = self._ids(rendered)
        attend()
        # Harmless contents could still make a control token together with the words around them.
        if self._all_harmless(messages, attend) and self._controls(ids) == self._controls(
            self._ids(chat.skeleton(messages))
        ):
            return ids
        ids = []
        for text, is_content in chat.pieces(messages):
            attend()
            ids += self._as_text(text).ids if is_content else self._ids(text)
        return ids

    def decode(self, ids: Iterable[int], keep_special: bool = False) -> str:
        """Ids to text, special tokens left out unless keep_special. Raises CheckpointError where the tokenizer
        fails."""
        try:
            text: str = self._plain.decode(list(ids), skip_special_tokens=not keep_special)
        except BaseException as error:
            if not is_tokenizer_error(error):
                raise
            raise CheckpointError(f"the checkpoint's tokenizer cannot decode a response ({one_line(error)})") from None
        return text

    def _all_harmless(self, messages: Iterable[Mapping[str, str]], attend: Callable[[], None]) -> bool:
        for message in messages:
            attend()
            if self._ids(message["content"]) != self._as_text(message["content"]).ids:
                return False
        return True

    def _chat(self, prompt: str | Conversation) -> ChatTemplate:
        if self._template is not None:
            return self._template
        if isinstance(prompt, str):
            raise PromptError("chat=True: this checkpoint has no chat template; pass chat=False")
        raise PromptError("prompt: a conversation needs a chat template and this checkpoint has none; give a text")

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = _run(lambda: self._templated.encode(text, add_special_tokens=False).ids)
        return ids

    def _around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text."""
        full = self._plain.post_process(self._as_text("a"))
        own = [place for place, is_added in enumerate(full.special_tokens_mask) if not is_added]
        return (full.ids[: own[0]], full.ids[own[-1] + 1 :]) if own else ([], [])

    def _as_text(self, text: str) -> Encoding:
        """Text in which nothing is a control token. Raises PromptError where the vocabulary itself reads one."""
        encoding: Encoding = _run(lambda: self._plain.encode(text, add_special_tokens=False))
        for number in encoding.ids:
            if number in self._control:
                raise PromptError(
                    f"prompt: this tokenizer cannot keep the text {self._control[number]!r} apart from its control "
                    "token; leave it out"
                )
        return encoding

    def _controls(self, ids: list[int]) -> list[int]:
        return [i for i in ids if i in self._control]


def _run(encode: Callable[[], Any]) -> Any:
    """What the tokenizers library makes of a text. Raises PromptError where it fails."""
    try:
        return encode()
    except BaseException as error:  # also a panic, which is no Exception
        if not is_tokenizer_error(error):
            raise
        raise PromptError(f"prompt: the checkpoint's tokenizer cannot encode it ({one_line(error)})") from None


def _pass() -> None:
    """Attend to nothing."""


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


def load_tokenizer(directory: Path) -> Tokenizer | None:
    """The tokenizer of a checkpoint directory: tokenizer.json, else vocab.json and merges.txt; None where there is
    neither. Logs a warning where the checkpoint's chat template is not used as it is. Raises CheckpointError."""
    settings = settings_of(directory)
    found = specification(directory, settings)
    if found is None:
        return None
    content, path = found
    added = {token["content"]: token["id"] for token in content["added_tokens"]}
    serialized = json.dumps(content)
    check_bounds(content, path)
    chat = load_chat(directory, settings, added)
    try:
        tokenizer = Tokenizer(serialized, chat)
    except BaseException as error:  # tokenizers raises bare Exception for a damaged file, and panics
        if not is_tokenizer_error(error):
            raise
        raise CheckpointError(f"{path}: is not a usable tokenizer ({one_line(error)}); fetch the file again") from None
    if tokenizer.added != added:  # a vocabulary of another kind than BPE closes gaps
        wrong = next(name for name in added if tokenizer.added.get(name) != added[name])
        raise CheckpointError(f"{path}: added token {wrong!r} cannot have the id {added[wrong]}; fetch the file again")
    if chat.note is not None:
        _log.warning("%s", chat.note)
    return tokenizer
