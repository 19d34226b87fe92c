"""A checkpoint's tokenizer files as plain data: which there are, what they say, and one line where one is damaged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dkv.errors import CheckpointError
from dkv.tokens.bytelevel import CLASSES, byte_level, merges_of

__all__ = ["added_tokens", "names_of", "one_line", "settings_of", "specification", "template_of"]

_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token", "mask_token")
_LOOKS_LIKE_CONTROL = re.compile(r"<\|.*\|>", re.DOTALL)


def settings_of(directory: Path) -> dict[str, Any]:
    """What tokenizer_config.json says; nothing where there is none. Raises CheckpointError."""
    path = directory / "tokenizer_config.json"
    return _object(path) if path.is_file() else {}


def specification(directory: Path, settings: dict[str, Any]) -> tuple[dict[str, Any], Path] | None:
    """The content of tokenizer.json, or what stands for it, with every added token; and the file to blame.

    None where the directory holds no tokenizer. Raises CheckpointError.
    """
    path, vocab = directory / "tokenizer.json", directory / "vocab.json"
    if path.is_file():
        content = _object(path)
    elif vocab.is_file():
        path, content = vocab, _from_vocabulary(directory, settings)
    else:
        return None
    try:
        return _with_added(content, _listed(directory, settings), _declared(directory, settings)), path
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: is not a usable tokenizer; fetch the tokenizer's files again") from None


def added_tokens(directory: Path) -> dict[str, int]:
    """The ids of the tokens that stand outside the text's own vocabulary, by name; empty without a tokenizer.

    Raises CheckpointError.
    """
    found = specification(directory, settings_of(directory))
    return {} if found is None else {token["content"]: token["id"] for token in found[0]["added_tokens"]}


def names_of(directory: Path, settings: dict[str, Any]) -> dict[str, str]:
    """What a template may print: bos_token, eos_token and so on, those that the checkpoint names."""
    both = _roles(directory, settings)
    named = {key: _content(both.get(key)) for key in _NAMED}
    return {key: content for key, content in named.items() if content}


def template_of(directory: Path, settings: dict[str, Any]) -> tuple[str, Path] | None:
    """The checkpoint's default chat template and where it stands: a file of its own in newer checkpoints, a string or
    a named list in older ones. Raises CheckpointError."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return _text(file), file
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return (template, directory / "tokenizer_config.json") if isinstance(template, str) else None


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _from_vocabulary(directory: Path, settings: dict[str, Any]) -> dict[str, Any]:
    kind, merges = settings.get("tokenizer_class", CLASSES[0]), directory / "merges.txt"
    if kind not in CLASSES:
        raise CheckpointError(f"{directory}: tokenizer_class={kind!r} needs a tokenizer.json, which is missing")
    if not merges.is_file():
        raise CheckpointError(f"{merges}: is missing beside vocab.json; fetch it")
    return byte_level(_object(directory / "vocab.json"), merges_of(_text(merges), merges))


def _roles(directory: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """special_tokens_map.json, which older checkpoints have, under tokenizer_config.json."""
    path = directory / "special_tokens_map.json"
    return (_object(path) if path.is_file() else {}) | {k: v for k, v in settings.items() if v is not None}


def _declared(directory: Path, settings: dict[str, Any]) -> set[str]:
    """The tokens that the files call special somewhere."""
    more = _roles(directory, settings).get("additional_special_tokens")
    more = more if isinstance(more, list) else []
    return {*names_of(directory, settings).values(), *(_content(token) for token in more)}


def _with_added(content: dict[str, Any], listed: dict[str, dict[str, Any]], declared: set[str]) -> dict[str, Any]:
    """The content with the listed tokens that it lacks, every one at the id that the files give it.

    The tokenizers library numbers added tokens in their order, gaps closed, unless the model's vocabulary has them:
    so they go in there too. Text cannot reach them that way, since no merge leads to them.
    """
    own = content.get("added_tokens") or []
    tokens = {token["content"]: token for token in (*listed.values(), *own)}
    for token in tokens.values():
        # A flag forgotten in one of the files must not let a text say <|im_end|>.
        looks = token["content"] in declared or _LOOKS_LIKE_CONTROL.fullmatch(token["content"]) is not None
        token["special"] = bool(token.get("special")) or looks
    vocab = content["model"]["vocab"]
    if isinstance(vocab, dict):
        for name, token in tokens.items():
            vocab.setdefault(name, token["id"])
    by_id = sorted(tokens.values(), key=lambda token: int(token["id"]))
    return {**content, "added_tokens": by_id, "truncation": None, "padding": None}


def _listed(directory: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The added tokens that the files beside the tokenizer list, by name."""
    path, tokens = directory / "added_tokens.json", {}
    for name, number in (_object(path) if path.is_file() else {}).items():
        tokens[name] = _token(name, number, {}, path)
    entries, path = settings.get("added_tokens_decoder") or {}, directory / "tokenizer_config.json"
    for number, entry in entries.items():
        tokens[_content(entry)] = _token(_content(entry), int(number), entry, path)
    return tokens


def _token(name: str, number: Any, entry: dict[str, Any], path: Path) -> dict[str, Any]:
    """An entry as tokenizer.json has it; what is not said is that of a control token."""
    if not name or type(number) is not int or number < 0:
        raise CheckpointError(f"{path}: added token {name!r} has the id {number!r}; fetch the file again")
    flags = {flag: bool(entry.get(flag, False)) for flag in ("single_word", "lstrip", "rstrip", "normalized")}
    return {"id": number, "content": name, "special": bool(entry.get("special", True)), **flags}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({one_line(error)}); fetch the file again") from None


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: is not valid JSON; fetch the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: does not hold an object; fetch the file again")
    return value


def _content(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")
