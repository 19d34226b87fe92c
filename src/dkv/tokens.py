"""Text to token ids and back, from a checkpoint's own tokenizer files. No remote code.

Text that a user gives can never inject control tokens: the strings of special tokens inside it are encoded as plain
text, also inside a chat template.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as FastTokenizer

from dkv.errors import CheckpointError, PromptError

__all__ = ["Tokenizer", "load_tokenizer"]

_SENTINEL = "\ue000content\ue000"
_TURN_ENDS = ("<|eot_id|>",)


class Tokenizer:
    """A `tokenizer.json` with the chat template that lies beside it, if there is one."""

    def __init__(self, serialized: str, settings: dict[str, Any], template: str | None) -> None:
        self._templated, self._plain = FastTokenizer.from_str(serialized), FastTokenizer.from_str(serialized)
        self._plain.encode_special_tokens = True
        added = self._plain.get_added_tokens_decoder()
        self.turn_end_ids = tuple(i for i, token in added.items() if token.content in _TURN_ENDS)
        self._names = {key: _content(settings.get(key)) for key in ("bos_token", "eos_token", "pad_token")}
        # The checkpoint is data: its template runs sandboxed, without access to anything but the messages.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self._template = None if template is None else environment.from_string(template)

    @property
    def has_template(self) -> bool:
        """Whether prompts can go through a chat template."""
        return self._template is not None

    def encode(self, text: str) -> list[int]:
        """Text as it is, with what the tokenizer itself puts around a text (often nothing)."""
        ids: list[int] = self._plain.encode(_well_formed(text)).ids
        return ids

    def encode_chat(self, content: str) -> list[int]:
        """One user message through the chat template, ready for the assistant's answer.

        Raises PromptError where the template fails, or cannot keep control tokens in the content apart.
        """
        whole = self._render(_well_formed(content))
        coders = (self._templated, self._plain)
        as_control, as_text = (coder.encode(content, add_special_tokens=False).ids for coder in coders)
        if as_control == as_text:
            ids: list[int] = self._templated.encode(whole, add_special_tokens=False).ids
            return ids
        before, *rest = self._render(_SENTINEL).split(_SENTINEL)
        if len(rest) != 1:
            raise PromptError(
                "prompt: holds control tokens, and the chat template repeats or drops it; pass chat=False"
            )
        after = rest[0]
        inner = whole[len(before) : len(whole) - len(after)]
        pieces = ((self._templated, before), (self._plain, inner), (self._templated, after))
        return [i for coder, piece in pieces for i in coder.encode(piece, add_special_tokens=False).ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text, special tokens left out."""
        text: str = self._plain.decode(list(ids), skip_special_tokens=True)
        return text

    def _render(self, content: str) -> str:
        if self._template is None:
            raise PromptError("chat=True: this checkpoint has no chat template; pass chat=False")
        messages = [{"role": "user", "content": content}]
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._names)
        except TemplateError as error:
            raise PromptError(f"chat=True: the chat template fails ({error}); pass chat=False") from None


def load_tokenizer(directory: Path) -> Tokenizer | None:
    """The tokenizer of a checkpoint directory; None where there is no tokenizer.json. Raises CheckpointError."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        return None
    settings_path = directory / "tokenizer_config.json"
    settings = _settings(settings_path) if settings_path.is_file() else {}
    template, template_path = _template(directory, settings) or (None, path)
    try:
        return Tokenizer(_text(path), settings, template)
    except TemplateError as error:
        raise CheckpointError(f"{template_path}: the chat template is not usable ({_line(error)})") from None
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise CheckpointError(f"{path}: is not a usable tokenizer ({_line(error)}); fetch the file again") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({_line(error)}); fetch the file again") from None


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(_text(path))
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: is not valid JSON; fetch the file again") from None
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: does not hold an object; fetch the file again")
    return settings


def _template(directory: Path, settings: dict[str, Any]) -> tuple[str, Path] | None:
    """The default chat template and where it stands: a file of its own in newer checkpoints, a string or a named list
    in older ones."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return _text(file), file
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return (template, directory / "tokenizer_config.json") if isinstance(template, str) else None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _well_formed(text: str) -> str:
    """Refuse half a surrogate pair, which is no text. Raises PromptError."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(f"prompt: character {error.start} is half a surrogate pair; give well-formed text") from None
    return text


def _content(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")
