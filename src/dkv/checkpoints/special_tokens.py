"""The ids of a checkpoint's control tokens, from whichever of its files has them.

Published configs and their forks differ: a key may be absent or null in one file and stand in another, or nowhere but
in the tokenizer. Architectures read one completed mapping and know none of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dkv.checkpoints.config_fields import read_json
from dkv.checkpoints.config_keys import flat_config
from dkv.errors import CheckpointError
from dkv.storage.regular_file import exists
from dkv.tokenizer import TURN_ENDS, added_tokens

__all__ = ["complete_ids", "with_ids"]

_NAMES = {"mask_token_id": ("<|mdm_mask|>", "<|mask|>"), "eos_token_id": ("<|endoftext|>",)}
_TURN_END = "turn_end_id"
_PUBLISHED = {
    "LLaDAModelLM": {"mask_token_id": 126336, "eos_token_id": 126081, _TURN_END: 126348},
    "DreamModel": {"mask_token_id": 151666, "eos_token_id": 151643, _TURN_END: 151645},
}
"""By architecture, for a directory in which nothing names them."""


def with_ids(raw: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """`complete_ids` with what the directory's other files say. Raises CheckpointError."""
    generation = directory / "generation_config.json"
    return complete_ids(raw, read_json(generation) if exists(generation) else {}, added_tokens(directory))


def complete_ids(
    raw: Mapping[str, Any], generation_config: Mapping[str, Any], added_tokens: Mapping[str, int]
) -> dict[str, Any]:
    """config.json with mask_token_id, eos_token_id and pad_token_id filled in where absent or null.

    In this order: config.json itself (whose values are the architecture's to check), generation_config.json, the
    tokenizer's added tokens (name -> id) by their known names, the family's published ids; the last three only where
    they fit the vocabulary. A pad id that nothing names is the end-of-text's. Ids that end a turn join the end-of-text
    ids, after them. Raises CheckpointError naming a key that nothing can fill.
    """
    raw = flat_config(raw)
    ids = {key: _found(key, raw, generation_config, added_tokens) for key in _NAMES}
    ids["eos_token_id"] = _with_turn_ends(ids["eos_token_id"], raw, added_tokens)
    _check_apart(ids["mask_token_id"], ids["eos_token_id"])
    pad = raw.get("pad_token_id")
    if pad is None:
        pad = _fitting(generation_config.get("pad_token_id"), raw)
    return {**raw, **ids, "pad_token_id": _first(ids["eos_token_id"]) if pad is None else pad}


def _found(
    key: str, raw: Mapping[str, Any], generation_config: Mapping[str, Any], added_tokens: Mapping[str, int]
) -> Any:
    named = [added_tokens[name] for name in _NAMES[key] if name in added_tokens]
    published = _published(key, raw, added_tokens)
    others = [_fitting(value, raw) for value in (generation_config.get(key), *named, published)]
    found = next((value for value in (raw.get(key), *others) if value is not None), None)
    if found is None:
        raise CheckpointError(
            f"config.json: {key} is missing, and no other file of the checkpoint names it; add it to config.json"
        )
    return found


def _with_turn_ends(eos: Any, raw: Mapping[str, Any], added_tokens: Mapping[str, int]) -> Any:
    """The end-of-text ids and what else ends a response; nothing else where the tokenizer has no such tokens."""
    named = [added_tokens[name] for name in TURN_ENDS if name in added_tokens]
    ends = named if added_tokens else [_published(_TURN_END, raw, added_tokens)]
    listed = eos if isinstance(eos, list) else [eos]
    more = [end for end in ends if _fitting(end, raw) is not None and end not in listed]
    return [*listed, *more] if more else eos


def _check_apart(mask: Any, eos: Any) -> None:
    """What is decided is never the mask, so that an end-of-text of the same id would never come."""
    masks, ends = (value if isinstance(value, list) else [value] for value in (mask, eos))
    if masks and masks[0] in ends:
        raise CheckpointError(
            f"config.json: mask_token_id={masks[0]!r} is also an end-of-text id (eos_token_id={eos!r}); "
            "set mask_token_id to the mask's own"
        )


def _published(key: str, raw: Mapping[str, Any], added_tokens: Mapping[str, int]) -> int | None:
    """The family's id, unless the tokenizer gives that number to another token."""
    named = raw.get("architectures")
    family = named[0] if isinstance(named, list) and named else None
    number = _PUBLISHED.get(str(family), {}).get(key)
    return None if number in added_tokens.values() else number


def _fitting(value: Any, raw: Mapping[str, Any]) -> Any:
    """An id, or a list of them, that fits the vocabulary; else None."""
    vocab = raw.get("embedding_size") or raw.get("vocab_size")
    listed = value if isinstance(value, list) else [value]
    fits = type(vocab) is int and bool(listed) and all(type(v) is int and 0 <= v < vocab for v in listed)
    return value if fits else None


def _first(ids: Any) -> Any:
    return ids[0] if isinstance(ids, list) and ids else ids
