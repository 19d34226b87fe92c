"""A checkpoint's tokenizer files as plain data: what they say, and one line where one is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dkv.errors import CheckpointError
from dkv.regular_file import exists, read_text

__all__ = ["content_of", "names_of", "object_in", "one_line", "roles_of", "settings_of", "template_of", "text_in"]

_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token", "mask_token")


def settings_of(directory: Path) -> dict[str, Any]:
    """What tokenizer_config.json says; nothing where there is none. Raises CheckpointError."""
    path = directory / "tokenizer_config.json"
    return object_in(path) if exists(path) else {}


def roles_of(directory: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """special_tokens_map.json, which older checkpoints have, under tokenizer_config.json."""
    path = directory / "special_tokens_map.json"
    return (object_in(path) if exists(path) else {}) | {k: v for k, v in settings.items() if v is not None}


def names_of(directory: Path, settings: dict[str, Any]) -> dict[str, str]:
    """What a template may print: bos_token, eos_token and so on, those that the checkpoint names."""
    both = roles_of(directory, settings)
    named = {key: content_of(both.get(key)) for key in _NAMED}
    return {key: content for key, content in named.items() if content}


def template_of(directory: Path, settings: dict[str, Any]) -> tuple[str, Path] | None:
    """The checkpoint's default chat template and where it stands: a file of its own in newer checkpoints, a string or
    a named list in older ones. Raises CheckpointError."""
    file = directory / "chat_template.jinja"
    if exists(file):
        return text_in(file), file
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return (template, directory / "tokenizer_config.json") if isinstance(template, str) else None


def content_of(token: Any) -> str:
    """A token's string, which files give bare or among flags; empty for none."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def text_in(path: Path) -> str:
    """The text of a file. Raises CheckpointError."""
    return read_text(path)


def object_in(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError."""
    try:
        value = json.loads(text_in(path))
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: is not valid JSON; fetch the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: does not hold an object; fetch the file again")
    return value


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
