"""Conversations through a chat template: what is checked, rendered, and kept apart as the users' own text.

The checkpoint is data: its template runs sandboxed, without access to anything but the messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn, TypeGuard

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dkv.errors import PromptError
from dkv.tokens.files import one_line

__all__ = ["ChatTemplate", "Conversation", "checked", "is_conversation", "well_formed"]

Conversation = Sequence[Mapping[str, str]]
"""Messages, each {"role": "system" | "user" | "assistant", "content": text}; the last one is the user's."""

_ROLES = ("system", "user", "assistant")


def is_conversation(prompt: object) -> TypeGuard[Conversation]:
    """Whether this is a list of messages (checked no further), rather than a text, token ids or several prompts."""
    if not isinstance(prompt, Sequence) or isinstance(prompt, (str, bytes, bytearray)):
        return False
    return len(prompt) > 0 and all(isinstance(message, Mapping) for message in prompt)


def checked(prompt: str | Conversation) -> list[dict[str, str]]:
    """A conversation that can be answered; a text is its one message. Raises PromptError, naming the message."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": well_formed(prompt)}]
    messages = [dict(message) for message in prompt]
    for number, message in enumerate(messages, 1):
        _check(message, f"prompt: message {number}")
    if not messages or not messages[-1]["content"].strip():
        raise PromptError("prompt is empty; give at least one token of text")
    if messages[-1]["role"] != "user":
        raise PromptError(
            f"prompt: the last message has the role {messages[-1]['role']!r}; end the conversation with the user's"
        )
    return messages


def _check(message: dict[str, str], name: str) -> None:
    if set(message) != {"role", "content"}:
        keys = f"the keys {', '.join(map(repr, message))}" if message else "no keys"
        raise PromptError(f"{name} has {keys}; give 'role' and 'content'")
    if message["role"] not in _ROLES:
        raise PromptError(f"{name} has the role {message['role']!r}; known: {', '.join(_ROLES)}")
    if not isinstance(message["content"], str):
        raise PromptError(f"{name} has the content {message['content']!r}; give a text")
    well_formed(message["content"], name)


def well_formed(text: str, name: str = "prompt") -> str:
    """Refuse half a surrogate pair, which is no text. Raises PromptError."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(f"{name}: character {error.start} is half a surrogate pair; give well-formed text") from None
    return text


class ChatTemplate:
    """A Jinja template of messages. Raises jinja2.TemplateError for one that is not well-formed.

    names: bos_token, eos_token and so on, which it may print.
    """

    def __init__(self, source: str, names: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        self._template, self._names = environment.from_string(source), dict(names)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation as one string, up to where the assistant's answer begins. Raises PromptError."""
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._names)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            way_out = (
                "pass chat=False" if len(messages) == 1 else "change the conversation, or give a text and chat=False"
            )
            raise PromptError(f"chat=True: the chat template fails ({one_line(error)}); {way_out}") from None

    def skeleton(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The same conversation with a mark in place of every content: nothing in it comes from the messages."""
        return self.render(_marked(messages))

    def pieces(self, messages: Sequence[Mapping[str, str]]) -> list[tuple[str, bool]]:
        """`render` in pieces: (text, whether it is a message's content, as the template prints it).

        Where a content stands is seen by rendering it among marks, so that a template may trim or cut it. Raises
        PromptError where the pieces do not add up: the template repeats a content, or chooses its words by it.
        """
        marked, skeleton = _marked(messages), self.skeleton(messages)
        pieces, done = [], 0
        for start, mark, index in _places(marked, skeleton):
            alone = self.render([*marked[:index], messages[index], *marked[index + 1 :]])
            before, after = skeleton[:start], skeleton[start + len(mark) :]
            inner = alone[len(before) : len(alone) - len(after)]
            if inner not in messages[index]["content"]:
                raise _unclear()
            pieces += [(skeleton[done:start], False), (inner, True)]
            done = start + len(mark)
        pieces.append((skeleton[done:], False))
        if "".join(text for text, _ in pieces) != self.render(messages):
            raise _unclear()
        return pieces


def _unclear() -> PromptError:
    return PromptError(
        "prompt: holds control tokens, and the chat template does more than print it; leave them out or pass chat=False"
    )


def _marked(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The messages with a mark for each content; blank ones stay, since templates may ask whether there is any."""
    marks = [f"\ue000{index}\ue001" for index in range(len(messages))]
    return [
        {**m, "content": mark if m["content"].strip() else m["content"]}
        for m, mark in zip(messages, marks, strict=True)
    ]


def _places(marked: Sequence[Mapping[str, str]], skeleton: str) -> list[tuple[int, str, int]]:
    """(start, mark, message) of every mark in the skeleton, in its order."""
    marks = {index: message["content"] for index, message in enumerate(marked) if message["content"].strip()}
    return sorted((skeleton.index(mark), mark, index) for index, mark in marks.items() if mark in skeleton)


def _refuse(message: object) -> NoReturn:
    """What templates call to refuse a conversation."""
    raise TemplateError(str(message))
