"""Text and conversations to token ids and back.

Text that a user gives can never inject control tokens: the strings of special tokens inside it are encoded as plain
text, also inside a chat template, in every message of a conversation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers import Encoding
from tokenizers import Tokenizer as FastTokenizer

from dkv.errors import CheckpointError, PromptError
from dkv.tokens.chat import ChatTemplate, Conversation, checked, well_formed
from dkv.tokens.files import names_of, one_line, settings_of, template_of
from dkv.tokens.formats import TURN_ENDS, format_for
from dkv.tokens.specification import specification

__all__ = ["Tokenizer", "load_tokenizer"]


class Tokenizer:
    """The content of a `tokenizer.json`, with the chat template that goes with it, if there is one.

    added: ids of the tokens outside the text's vocabulary, by name; turn_end_ids: those that end a turn, none in a
    vocabulary without them (LLaDA-Base); chat_format: "own" for the checkpoint's template, "llada" or "dream" for dkv's
    own of that family, None without one.
    """

    def __init__(self, serialized: str, template: ChatTemplate | None = None, chat_format: str | None = None) -> None:
        self._templated, self._plain = FastTokenizer.from_str(serialized), FastTokenizer.from_str(serialized)
        self._plain.encode_special_tokens = True
        tokens = self._plain.get_added_tokens_decoder()
        self.added = {token.content: number for number, token in tokens.items()}
        self.turn_end_ids = tuple(number for name, number in self.added.items() if name in TURN_ENDS)
        self.chat_format = chat_format
        unknown = getattr(self._plain.model, "unk_token", None)  # what text may turn into
        self._control = {number: t.content for number, t in tokens.items() if t.special and t.content != unknown}
        self._template = template

    @property
    def has_template(self) -> bool:
        """Whether prompts can go through a chat template."""
        return self._template is not None

    def encode(self, text: str) -> list[int]:
        """Text as it is, with what the tokenizer itself puts around a text (often nothing)."""
        ids: list[int] = self._plain.post_process(self._as_text(well_formed(text))).ids
        return ids

    def encode_bare(self, text: str) -> list[int]:
        """Text as it is, with nothing around it: a part of a longer text."""
        ids: list[int] = self._as_text(well_formed(text)).ids
        return ids

    def render(self, prompt: str | Conversation) -> str:
        """A conversation, or a text as its one user message, as the chat template writes it. Raises PromptError."""
        return self._chat(prompt).render(checked(prompt))

    def encode_chat(self, prompt: str | Conversation) -> list[int]:
        """A conversation, or a text as its one user message, ready for the assistant's answer.

        Raises PromptError for a conversation that is none, and where the template fails or cannot keep control tokens
        in a message apart.
        """
        chat, messages = self._chat(prompt), checked(prompt)
        ids = self._ids(chat.render(messages))
        harmless = all(self._ids(m["content"]) == self._as_text(m["content"]).ids for m in messages)
        # Harmless contents could still make a control token together with the words around them.
        if harmless and self._controls(ids) == self._controls(self._ids(chat.skeleton(messages))):
            return ids
        pieces = chat.pieces(messages)
        return [i for text, is_content in pieces for i in (self._as_text(text).ids if is_content else self._ids(text))]

    def decode(self, ids: Iterable[int], keep_special: bool = False) -> str:
        """Ids to text, special tokens left out unless keep_special."""
        text: str = self._plain.decode(list(ids), skip_special_tokens=not keep_special)
        return text

    def _chat(self, prompt: str | Conversation) -> ChatTemplate:
        if self._template is not None:
            return self._template
        if isinstance(prompt, str):
            raise PromptError("chat=True: this checkpoint has no chat template; pass chat=False")
        raise PromptError("prompt: a conversation needs a chat template and this checkpoint has none; give a text")

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._templated.encode(text, add_special_tokens=False).ids
        return ids

    def _as_text(self, text: str) -> Encoding:
        """Text in which nothing is a control token. Raises PromptError where the vocabulary itself reads one."""
        encoding = self._plain.encode(text, add_special_tokens=False)
        for number in encoding.ids:
            if number in self._control:
                raise PromptError(
                    f"prompt: this tokenizer cannot keep the text {self._control[number]!r} apart from its control "
                    "token; leave it out"
                )
        return encoding

    def _controls(self, ids: list[int]) -> list[int]:
        return [i for i in ids if i in self._control]


def load_tokenizer(directory: Path) -> Tokenizer | None:
    """The tokenizer of a checkpoint directory: tokenizer.json, else vocab.json and merges.txt; None where there is
    neither. Raises CheckpointError."""
    settings = settings_of(directory)
    found = specification(directory, settings)
    if found is None:
        return None
    content, path = found
    added = {token["content"]: token["id"] for token in content["added_tokens"]}
    template, chat_format = _chat_template(directory, settings, added)
    try:
        tokenizer = Tokenizer(json.dumps(content), template, chat_format)
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise CheckpointError(f"{path}: is not a usable tokenizer ({one_line(error)}); fetch the file again") from None
    if tokenizer.added != added:  # a vocabulary of another kind than BPE closes gaps
        wrong = next(name for name in added if tokenizer.added.get(name) != added[name])
        raise CheckpointError(f"{path}: added token {wrong!r} cannot have the id {added[wrong]}; fetch the file again")
    return tokenizer


def _chat_template(
    directory: Path, settings: dict[str, Any], added: Mapping[str, int]
) -> tuple[ChatTemplate | None, str | None]:
    """The checkpoint's own template if it can answer a plain message; else the family's, if the vocabulary has its
    control tokens; else the own one after all, so that its error is seen.

    Raises CheckpointError for a template that is not well-formed: that is damage, which a fallback would hide.
    """
    names, found, family = names_of(directory, settings), template_of(directory, settings), format_for(added)
    own: ChatTemplate | None = None
    if found is not None:
        try:
            own = ChatTemplate(found[0], names)
        except TemplateError as error:
            raise CheckpointError(f"{found[1]}: the chat template is not usable ({one_line(error)})") from None
    if family is not None and not (own is not None and _answers(own)):
        return ChatTemplate(family.template, names), family.name
    return own, None if own is None else "own"


def _answers(template: ChatTemplate) -> bool:
    """Whether the template takes a plain user message and prints it."""
    try:
        return "plain words" in template.render(checked("plain words"))
    except PromptError:
        return False
