"""What a stranger's tokenizer.json may do with a text: anything beyond bounds is one line at load, and no panic gets
through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dkv.errors import CheckpointError, PromptError
from dkv.tokenizer import Tokenizer, load_tokenizer
from dkv.tokenizer.tokenizer_bounds import _is_cheap
from tests.support.checkpoints import write_tokenizer


def changed(directory: Path, **parts: Any) -> Path:
    """A byte-level tokenizer with other parts."""
    file = write_tokenizer(directory) / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **parts}), encoding="utf-8")
    return directory


def loaded(directory: Path) -> Tokenizer:
    tokenizer = load_tokenizer(directory)
    assert tokenizer is not None
    return tokenizer


def several(name: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", name: list(parts)}


def replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern or {"String": "a"}, "content": content}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
PIECE = {"Sequence": {"id": "A", "type_id": 0}}
SPECIAL = {"SpecialToken": {"id": "<|eot_id|>", "type_id": 0}}


def around(count: int, *pieces: dict[str, Any]) -> dict[str, Any]:
    token = {"id": "<|eot_id|>", "ids": [260] * count, "tokens": ["<|eot_id|>"] * count}
    return {
        "type": "TemplateProcessing", "single": list(pieces), "pair": [PIECE], "special_tokens": {"<|eot_id|>": token}
    }  # fmt: skip


BEYOND: dict[str, dict[str, Any]] = {
    "doubling": {"normalizer": several("normalizers", *[replace("aa")] * 40)},
    "doubling in a nest": {"normalizer": several("normalizers", *[several("normalizers", *[replace("aa")] * 4)] * 8)},
    "one long word": {"normalizer": replace("b" * 1000)},
    "between all": {"normalizer": several("normalizers", *[replace("xx", String="")] * 9)},
    "by expression": {"normalizer": several("normalizers", *[replace("bbbb", Regex="[ab]")] * 9)},
    "a long prefix": {"normalizer": {"type": "Prepend", "prepend": "a" * 10_000}},
    "bytes of bytes": {"pre_tokenizer": several("pretokenizers", *[BYTES] * 40)},
    "many parts": {"normalizer": several("normalizers", *[{"type": "NFC"}] * 1000)},
    "decoder": {"decoder": several("decoders", *[replace("aa")] * 40)},
    "repeated text": {"post_processor": around(1, *[PIECE] * 1000)},
    "much around": {"post_processor": around(100_000, PIECE, SPECIAL)},
    "a long expression": {"normalizer": replace("", Regex="a" * 10_000)},
    "backtracking": {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    },
    "choices": {"normalizer": replace("", Regex="(a|a|aa)+$")},
    "neighbours": {"normalizer": replace("", Regex=" *" * 12 + "$")},
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_is_beyond_bounds_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: ") as caught:
        load_tokenizer(changed(tmp_path, **BEYOND[name]))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


WITHIN: dict[str, dict[str, Any]] = {
    "one part": {"normalizer": {"type": "NFC"}},
    "a mark for blanks": {"normalizer": several("normalizers", {"type": "Prepend", "prepend": "a"}, replace("b"))},
    "both kinds of bytes": {"pre_tokenizer": several("pretokenizers", BYTES)},
    "groups of digits": {
        "pre_tokenizer": several(
            "pretokenizers",
            {"type": "Split", "pattern": {"Regex": r"(\d{3})+|\D"}, "behavior": "Isolated", "invert": False},
            BYTES,
        )
    },
    "something around": {"post_processor": around(1, PIECE, SPECIAL)},
}


@pytest.mark.parametrize("name", WITHIN)
def test_what_is_within_bounds_is_taken(name: str, tmp_path: Path) -> None:
    assert loaded(changed(tmp_path, **WITHIN[name])).encode("123 b")


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?i:'s|'t|'re|'ve)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{M}]*[\p{Ll}\p{M}]+(?i:'s)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+(?!\S)|\s+",
        r"[0-9][0-9][0-9]",
        r"(?:\r\n)+|[^()|*+]+",
    ],
)
def test_published_expressions_need_no_trial(pattern: str) -> None:
    assert _is_cheap(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+", "(a|b)*", "((a?)b){2,}", r"(a)\1", "a*" * 9, "(a*)*", "a)+", "(?:x*)+y"])
def test_expressions_that_may_backtrack_are_tried_first(pattern: str) -> None:
    assert not _is_cheap(pattern)


def test_a_text_that_a_vocabulary_has_no_tokens_for_is_refused(tmp_path: Path) -> None:
    content = {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"}, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer = loaded(tmp_path)
    assert tokenizer.encode("a") == [0]
    for encode in (tokenizer.encode, tokenizer.encode_bare):
        with pytest.raises(PromptError, match=r"prompt: the checkpoint's tokenizer cannot encode it .*UNK") as caught:
            encode("b")
        assert "\n" not in str(caught.value)


def test_a_panic_of_the_library_is_one_line(tmp_path: Path) -> None:
    """The expression passes the trial, whose texts it does not mind."""
    split = {"type": "Split", "pattern": {"Regex": "(q+)+$"}, "behavior": "Isolated", "invert": False}
    tokenizer = loaded(changed(tmp_path, pre_tokenizer=several("pretokenizers", split, BYTES)))
    with pytest.raises(PromptError, match="prompt: the checkpoint's tokenizer cannot encode it") as caught:
        tokenizer.encode("q" * 100 + "!")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [{"continuing_subword_prefix": "#" * 1000}, {"end_of_word_suffix": "#" * 1000}])
def test_long_affixes_are_refused(model: dict[str, str], tmp_path: Path) -> None:
    file = write_tokenizer(tmp_path) / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["model"] |= model
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"{next(iter(model))} is longer than 64 characters"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": replace("x", String="")},
        {"normalizer": replace("xx", Regex="")},
        {"normalizer": replace("xx", Regex="b?")},
        {"decoder": several("decoders", {"type": "Strip", "content": "a", "start": 10**9, "stop": 10**9})},
    ],
    ids=["an empty text", "an empty expression", "an optional one", "more than there is"],
)
def test_parts_over_which_the_library_panics_are_refused_at_load(parts: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer.json: is not a usable tokenizer \(.+\)$"):
        load_tokenizer(changed(tmp_path, **parts))


def test_a_vocabulary_has_tokens_and_each_its_own_id(tmp_path: Path) -> None:
    content = json.loads((write_tokenizer(tmp_path) / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = content["model"]["vocab"]
    for damaged, message in (
        ({}, "its vocabulary is empty"),
        ({**vocab, "b": vocab["a"]}, "the tokens 'a' and 'b' have the same id"),
    ):
        (tmp_path / "tokenizer.json").write_text(
            json.dumps({**content, "model": {**content["model"], "vocab": damaged}}), encoding="utf-8"
        )
        with pytest.raises(CheckpointError, match=message):
            load_tokenizer(tmp_path)
