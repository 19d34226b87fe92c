"""One description of a checkpoint's tokenizer, whichever files it is spread over: the content of a tokenizer.json."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dkv.errors import CheckpointError
from dkv.storage.regular_file import exists
from dkv.tokenizer.bytelevel import CLASSES, byte_level, merges_of
from dkv.tokenizer.tokenizer_files import content_of, names_of, object_in, roles_of, settings_of, text_in

__all__ = ["added_tokens", "specification"]

_LOOKS_LIKE_CONTROL = re.compile(r"<\|.*\|>", re.DOTALL)


def specification(directory: Path, settings: dict[str, Any]) -> tuple[dict[str, Any], Path] | None:
    """The content of tokenizer.json, or what stands for it, with every added token; and the file to blame.

    None where the directory holds no tokenizer. Raises CheckpointError.
    """
    path, vocab = directory / "tokenizer.json", directory / "vocab.json"
    if exists(path):
        content = object_in(path)
    elif exists(vocab):
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


def _from_vocabulary(directory: Path, settings: dict[str, Any]) -> dict[str, Any]:
    kind, merges = settings.get("tokenizer_class", CLASSES[0]), directory / "merges.txt"
    if kind not in CLASSES:
        raise CheckpointError(f"{directory}: tokenizer_class={kind!r} needs a tokenizer.json, which is missing")
    if not exists(merges):
        raise CheckpointError(f"{merges}: is missing beside vocab.json; fetch it")
    return byte_level(object_in(directory / "vocab.json"), merges_of(text_in(merges), merges))


def _declared(directory: Path, settings: dict[str, Any]) -> set[str]:
    """The tokens that the files call special somewhere."""
    more = roles_of(directory, settings).get("additional_special_tokens")
    more = more if isinstance(more, list) else []
    return {*names_of(directory, settings).values(), *(content_of(token) for token in more)}


def _with_added(content: dict[str, Any], listed: dict[str, dict[str, Any]], declared: set[str]) -> dict[str, Any]:
    """The content with the listed tokens that it lacks, every one at the id that the files give it.

    The tokenizers library numbers added tokens in their order, gaps closed, unless the model's vocabulary has them:
    so they go in there too. Text does not reach them that way, since no merge leads to them.
    """
    own = content.get("added_tokens") or []
    tokens = {token["content"]: token for token in (*listed.values(), *own)}
    for token in tokens.values():
        # A flag forgotten in one of the files must not let a text say <|im_end|>.
        looks = token["content"] in declared or _LOOKS_LIKE_CONTROL.fullmatch(token["content"]) is not None
        token["special"] = bool(token.get("special")) or looks
    if "merges" in content["model"]:
        for name, token in tokens.items():
            content["model"]["vocab"].setdefault(name, token["id"])
    by_id = sorted(tokens.values(), key=lambda token: int(token["id"]))
    return {**content, "added_tokens": by_id, "truncation": None, "padding": None}


def _listed(directory: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The added tokens that the files beside the tokenizer list, by name."""
    path, tokens = directory / "added_tokens.json", {}
    for name, number in (object_in(path) if exists(path) else {}).items():
        tokens[name] = _token(name, number, {}, path)
    entries, path = settings.get("added_tokens_decoder") or {}, directory / "tokenizer_config.json"
    for number, entry in entries.items():
        tokens[content_of(entry)] = _token(content_of(entry), int(number), entry, path)
    return tokens


def _token(name: str, number: Any, entry: dict[str, Any], path: Path) -> dict[str, Any]:
    """An entry as tokenizer.json has it; what is not said is that of a control token."""
    if not name or type(number) is not int or number < 0:
        raise CheckpointError(f"{path}: added token {name!r} has the id {number!r}; fetch the file again")
    flags = {flag: bool(entry.get(flag, False)) for flag in ("single_word", "lstrip", "rstrip", "normalized")}
    return {"id": number, "content": name, "special": bool(entry.get("special", True)), **flags}
