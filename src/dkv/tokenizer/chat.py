"""Conversations through a chat template: what is checked, rendered, and kept apart as the users' own text.

The checkpoint is data: its template runs sandboxed, without access to anything but the messages.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard, cast

from jinja2 import Template

from dkv.errors import CheckpointError, PromptError
from dkv.tokenizer.plain_templates import is_plain
from dkv.tokenizer.template_process import TemplateProcess
from dkv.tokenizer.template_sandbox import environment, one_line, rendered

__all__ = [
    "MESSAGE_TYPES",
    "ChatTemplate",
    "Conversation",
    "check_printed",
    "checked",
    "is_conversation",
    "well_formed",
    "well_formed_label",
]

Conversation = Sequence[Mapping[str, str]]
"""Messages, each {"role": "system" | "user" | "assistant", "content": text}; the last one is the user's. Where the
template prints them, also messages of the roles "tool" and "function", which may be the last, and the keys "name" and
"tool_call_id"."""

_TOOL_ROLES = ("tool", "function")
_ROLES = ("system", "user", "assistant", *_TOOL_ROLES)
_LABELS = ("name", "tool_call_id")
_LABEL = re.compile(r"[^\s<>|/\\\[\]]{1,64}")
"""As OpenAI's API has names; nothing of the kind can be a control token."""
MESSAGE_TYPES = ("message", "text")
"""Values of a message's `type`, which some clients add; it says nothing that the role does not."""
_LONGEST = 1 << 18
"""Characters of a template; published ones have some thousands."""


def is_conversation(prompt: object) -> TypeGuard[Conversation]:
    """Whether this is a list of messages (checked no further), rather than a text, token ids or several prompts."""
    if not isinstance(prompt, Sequence) or isinstance(prompt, (str, bytes, bytearray)):
        return False
    return len(prompt) > 0 and all(isinstance(message, Mapping) for message in prompt)


def checked(prompt: str | Conversation) -> list[dict[str, str]]:
    """A conversation that can be answered; a text is its one message. Raises PromptError, naming the message."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": well_formed(prompt)}]
    messages = [_without_type(message) for message in prompt]
    for number, message in enumerate(messages, 1):
        _check(message, f"prompt: message {number}")
    if not messages or not messages[-1]["content"].strip():
        raise PromptError("prompt is empty; give at least one token of text")
    if messages[-1]["role"] not in ("user", *_TOOL_ROLES):
        raise PromptError(
            f"prompt: the last message has the role {messages[-1]['role']!r}; end the conversation with the user's"
        )
    return messages


def _without_type(message: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in message.items() if key != "type" or value not in MESSAGE_TYPES}


def _check(message: dict[str, str], name: str) -> None:
    if set(message) - {*_LABELS} != {"role", "content"}:
        keys = f"the keys {', '.join(map(repr, message))}" if message else "no keys"
        raise PromptError(f"{name} has {keys}; give 'role' and 'content'")
    if message["role"] not in _ROLES:
        raise PromptError(f"{name} has the role {message['role']!r}; known: {', '.join(_ROLES)}")
    if not isinstance(message["content"], str):
        raise PromptError(f"{name} has the content {message['content']!r}; give a text")
    well_formed(message["content"], name)
    for label in _LABELS:
        well_formed_label(message.get(label), f"{name} has the {label}")


def well_formed_label(label: object, name: str) -> None:
    """Refuse the name of a message's author, or the id of a tool call, that could be more than that. Raises
    PromptError."""
    if label is not None and not (isinstance(label, str) and _LABEL.fullmatch(label)):
        raise PromptError(f"{name} {label!r}; give 1 to 64 characters without spaces, <, >, |, /, \\, [ or ]")


def check_printed(messages: Sequence[Mapping[str, str]], rendered: str) -> None:
    """Refuse a tool's message that the chat template left out. Raises PromptError."""
    for message in messages:
        if message["role"] in _TOOL_ROLES and message["content"].strip() not in rendered:
            reason = f"it does not print messages of the role {message['role']!r}"
            raise PromptError(f"prompt: the chat template does not take a message: {reason}", reason=reason)


def well_formed(text: str, name: str = "prompt") -> str:
    """Refuse half a surrogate pair, which is no text. Raises PromptError."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(f"{name}: character {error.start} is half a surrogate pair; give well-formed text") from None
    return text


class ChatTemplate:
    """A Jinja template of messages, with a bound on its time, its memory and what it prints.

    names: bos_token, eos_token and so on, which it may print; path: its file. A plain template renders in this process,
    any other in one of its own (template_process.py).
    """

    def __init__(self, source: str, names: Mapping[str, Any], path: Path | None = None) -> None:
        self._source, self._names, self._path = source, dict(names), path
        self.fault: str | None = None
        self._plain: Template | None = None
        self._process: TemplateProcess | None = None
        try:
            self._prepare()
        except Exception as error:  # whatever its text does to the parser
            self.fault = one_line(error)

    @classmethod
    def unusable(cls, reason: str) -> ChatTemplate:
        """What stands for a template that is none: rendering raises the reason."""
        made = cls("", {})
        made.fault = reason
        return made

    def __getstate__(self) -> dict[str, Any]:
        # what jinja2 compiled can be neither copied nor pickled
        return {"source": self._source, "names": self._names, "path": self._path, "fault": self.fault}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["source"], state["names"], state["path"])  # type: ignore[misc]
        self.fault = state["fault"]

    def trial(self) -> str | None:
        """Why it cannot take a plain user message and print it; None where it does. A template that cannot be run at
        all has a `fault` then, which every rendering raises."""
        if self.fault is None:
            try:
                return None if "plain words" in self._text(checked("plain words")) else "it does not print the message"
            except PromptError as error:
                return str(error)
            except CheckpointError as error:
                self.fault = str(error)
        return self.fault

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation as one string, up to where the assistant's answer begins.

        Raises PromptError where the template fails on it, CheckpointError where it cannot be run.
        """
        try:
            return self._text(messages)
        except PromptError as error:
            way_out = (
                "pass chat=False" if len(messages) == 1 else "change the conversation, or give a text and chat=False"
            )
            raise PromptError(f"chat=True: the chat template fails ({error}); {way_out}", "chat", str(error)) from None
        except CheckpointError as error:
            where = "" if self._path is None else f"{self._path}: "
            raise CheckpointError(f"{where}the chat template is not usable ({error}); pass chat=False") from None

    def skeleton(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The same conversation with a mark in place of every content: nothing in it comes from the messages."""
        return self.render(_Marks(messages).messages)

    def pieces(self, messages: Sequence[Mapping[str, str]]) -> list[tuple[str, bool]]:
        """`render` in pieces: (text, whether it is a message's content, as the template prints it).

        Where a content stands is seen by rendering it between marks, so that a template may trim or cut it: every
        second content at a time, so that four renderings do, however many messages there are. Raises PromptError where
        the pieces do not add up: the template repeats a content, or chooses its words by it.
        """
        marks = _Marks(messages)
        fixed, order = marks.split(self.render(marks.messages))
        contents = ["" for _ in order]
        for turn in (0, 1):
            shown = order[turn::2]
            around, others = marks.split(self.render(marks.all_but(shown)))
            if others != order[1 - turn :: 2]:
                raise _unclear()
            for place, index in zip(range(turn, len(order), 2), shown, strict=True):
                # between two marks: the words before the content, the content, the words after it
                stretch, before, after = around[(place + turn) // 2], fixed[place], fixed[place + 1]
                contents[place] = _between(stretch, before, after)
                if contents[place] not in messages[index]["content"]:
                    raise _unclear()
        pieces = [(fixed[0], False)]
        for content, words in zip(contents, fixed[1:], strict=True):
            pieces += [(content, True), (words, False)]
        if "".join(text for text, _ in pieces) != self.render(messages):
            raise _unclear()
        return pieces

    def _prepare(self) -> None:
        if len(self._source) > _LONGEST:
            raise CheckpointError(f"it has {len(self._source)} characters, and the limit is {_LONGEST}")
        surroundings = environment()
        if is_plain(self._source, surroundings):
            self._plain = surroundings.from_string(self._source)
        else:
            self._process = TemplateProcess(self._source, self._names)

    def _text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Raises PromptError and CheckpointError, whose messages are the reason alone."""
        if self.fault is not None:
            raise CheckpointError(self.fault)
        if self._process is not None:
            return self._process.render(messages)
        try:
            return rendered(cast("Template", self._plain), messages, self._names)
        except Exception as error:
            raise PromptError(one_line(error)) from None


def _unclear() -> PromptError:
    return PromptError(
        "prompt: holds control tokens, and the chat template does more than print it; leave them out or pass chat=False"
    )


def _between(stretch: str, before: str, after: str) -> str:
    """What stands between two texts. Raises PromptError where they are not there."""
    if not (stretch.startswith(before) and stretch.endswith(after) and len(stretch) >= len(before) + len(after)):
        raise _unclear()
    return stretch[len(before) : len(stretch) - len(after)]


class _Marks:
    """A conversation whose contents are replaced by marks, which no content holds.

    Blank contents stay, since templates may ask whether there is any.
    """

    def __init__(self, given: Sequence[Mapping[str, str]]) -> None:
        key = _absent_from(given)
        self._given = given
        self._pattern = re.compile(f"\ue000{key}-([0-9]+)\ue001")
        self.messages = [
            {**m, "content": f"\ue000{key}-{index}\ue001" if m["content"].strip() else m["content"]}
            for index, m in enumerate(given)
        ]

    def all_but(self, shown: Iterable[int]) -> list[Mapping[str, str]]:
        """The conversation with marks for all contents but those of some messages."""
        kept = set(shown)
        return [self._given[n] if n in kept else marked for n, marked in enumerate(self.messages)]

    def split(self, text: str) -> tuple[list[str], list[int]]:
        """The texts around the marks, one more than there are marks, and the messages that the marks stand for."""
        parts = self._pattern.split(text)
        return parts[::2], [int(index) for index in parts[1::2]]


def _absent_from(messages: Sequence[Mapping[str, str]]) -> int:
    """A number that no content holds behind a mark's first character, and that none could have foreseen."""
    taken = {number for m in messages for number in re.findall("\ue000([0-9]+)", m["content"])}
    return next(number for number in iter(lambda: secrets.randbits(62), None) if str(number) not in taken)
