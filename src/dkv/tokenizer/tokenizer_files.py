"""A checkpoint's tokenizer files as plain data: what they say, and one line where one is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dkv.errors import CheckpointError
from dkv.storage.regular_file import exists, read_text
from dkv.tokenizer.template_sandbox import one_line

__all__ = [
    "TOKENIZER_FILES",
    "content_of",
    "has_named_templates",
    "names_of",
    "object_in",
    "one_line",
    "roles_of",
    "settings_of",
    "template_of",
    "text_in",
    "variables_of",
]

TOKENIZER_FILES = (
    "tokenizer*.json",
    "tokenizer*.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
"""Patterns of the names of a checkpoint's files that have to do with its text; none of them is code."""

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def settings_of(directory: Path) -> dict[str, Any]:
    """What tokenizer_config.json says; nothing where there is none. Raises CheckpointError."""
    path = directory / "tokenizer_config.json"
    return object_in(path) if exists(path) else {}


def roles_of(directory: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """special_tokens_map.json, which older checkpoints have, under tokenizer_config.json."""
    path = directory / "special_tokens_map.json"
    return (object_in(path) if exists(path) else {}) | {k: v for k, v in settings.items() if v is not None}


def names_of(directory: Path, settings: dict[str, Any]) -> dict[str, str]:
    """bos_token, eos_token and so on, those that the checkpoint names."""
    both = roles_of(directory, settings)
    named = {key: content_of(both.get(key)) for key in _NAMED}
    return {key: content for key, content in named.items() if content}


def variables_of(directory: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What a template may print beside the messages: the special tokens by their names, as transformers gives them."""
    both = roles_of(directory, settings)
    extra = both.get("extra_special_tokens")
    found: dict[str, Any] = {k: content_of(v) for k, v in extra.items()} if isinstance(extra, dict) else {}
    if isinstance(more := both.get("additional_special_tokens"), list) and more:
        found["additional_special_tokens"] = [content_of(token) for token in more]
    return found | names_of(directory, settings)


def template_of(directory: Path, settings: dict[str, Any]) -> tuple[Any, Path] | None:
    """The checkpoint's default chat template, which should be a text, and where it stands: a file of its own in newer
    checkpoints; a string, or several by name, in older ones; chat_template.json of a processor. None without a default
    one.

    Raises CheckpointError for a file that cannot be read, naming it.
    """
    for name in ("chat_template.jinja", "additional_chat_templates/default.jinja"):
        if exists(directory / name):
            return text_in(directory / name), directory / name
    legacy = directory / "chat_template.json"
    sources = [(settings, directory / "tokenizer_config.json")]
    if exists(legacy) and settings.get("chat_template") is None:
        sources.append((object_in(legacy), legacy))
    for source, path in sources:
        template = _default(source.get("chat_template"))
        if template is not None:
            return template, path
    return None


def has_named_templates(directory: Path, settings: dict[str, Any]) -> bool:
    """Whether there are chat templates for some purposes, whatever they are."""
    given = settings.get("chat_template")
    return (isinstance(given, (dict, list)) and len(given) > 0) or any(
        directory.glob("additional_chat_templates/*.jinja")
    )


def _default(template: Any) -> Any:
    """The default one of several templates, listed or by name; a single one as it is."""
    if isinstance(template, list):
        template = {str(entry.get("name")): entry.get("template") for entry in template if isinstance(entry, dict)}
    return template.get("default") if isinstance(template, dict) else template


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
