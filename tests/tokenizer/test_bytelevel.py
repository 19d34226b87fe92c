"""A tokenizer from vocab.json and merges.txt: Qwen2's pieces, the ids of the files, and damage named by file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dkv.errors import CheckpointError
from dkv.tokenizer import Tokenizer, added_tokens, load_tokenizer
from dkv.tokenizer.bytelevel import merges_of
from tests.support.vocabularies import DREAM, byte_symbols, write_dream


def loaded(directory: Path) -> Tokenizer:
    tokenizer = load_tokenizer(directory)
    assert tokenizer is not None
    return tokenizer


def with_merges(directory: Path, *merges: str) -> Path:
    """Every pair of symbols merged, in this order; the results are numbered from 256."""
    write_dream(directory)
    vocab = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    vocab |= {"".join(merge.split()): 256 + index for index, merge in enumerate(merges)}
    (directory / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return directory


def change(directory: Path, **settings: Any) -> None:
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings), encoding="utf-8")


def test_text_is_bytes_and_round_trips(tmp_path: Path) -> None:
    tokenizer = loaded(write_dream(tmp_path))
    for text in ("naïve – 12 €\n\n\ttab", "日本語", "  two  blanks ", "a\r\nb", "don't", "<|im_end|>"):
        assert tokenizer.encode(text) == [*text.encode()]
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_text_is_composed_first(tmp_path: Path) -> None:
    assert loaded(write_dream(tmp_path)).encode("e\u0301") == [*"\u00e9".encode()]


def test_the_first_merge_comes_first(tmp_path: Path) -> None:
    tokenizer = loaded(with_merges(tmp_path, "b c", "a b", "a bc"))
    assert tokenizer.encode("abcab") == [258, 257]


@pytest.mark.parametrize(
    ("merge", "text", "ids"),
    [
        ("1 2", "12", [*b"12"]),  # digits stand alone
        ("Ġ a", "b a", [ord("b"), 256]),  # one blank joins the word after it
        ("Ġ Ġ", "   a", [256, *b" a"]),  # and only one
        ("' s", "it's", [*b"it", 256]),
        ("' S", "IT'S", [*b"IT", 256]),
        ("t '", "it's", [*b"it's"]),
        ("! Ċ", "a!\n", [ord("a"), 256]),  # line ends join the punctuation before them
        ("a Ċ", "a\n", [*b"a\n"]),
        ("- a", "-a", [256]),
        ("Ċ a", "\na", [*b"\na"]),
    ],
)
def test_the_pieces(merge: str, text: str, ids: list[int], tmp_path: Path) -> None:
    assert loaded(with_merges(tmp_path, merge)).encode(text) == ids


def test_a_merge_may_begin_with_a_hash(tmp_path: Path) -> None:
    assert loaded(with_merges(tmp_path, "# #")).encode("##") == [256]


def test_the_lines_of_a_merges_file() -> None:
    text = "#version: 0.2\r\na b\r\n#version :\n\nĠ a"
    assert merges_of(text, Path()) == [["a", "b"], ["#version", ":"], ["Ġ", "a"]]


def test_added_tokens_have_the_ids_of_the_files(tmp_path: Path) -> None:
    directory = write_dream(tmp_path)
    assert added_tokens(directory) == loaded(directory).added == DREAM
    assert loaded(directory).turn_end_ids == (DREAM["<|im_end|>"],)


def test_added_tokens_json_is_read_too(tmp_path: Path) -> None:
    directory = write_dream(tmp_path)
    change(directory, added_tokens_decoder=None)
    tokens = DREAM | {"<role>": 151670}
    (directory / "added_tokens.json").write_text(json.dumps(tokens), encoding="utf-8")
    assert loaded(directory).added == tokens
    assert loaded(directory).encode("<|im_end|><role>") == [*b"<|im_end|><role>"]


def test_a_forgotten_flag_lets_nothing_in(tmp_path: Path) -> None:
    """Tokens that look like control tokens or have a role are control tokens; others are what the files say."""
    directory = write_dream(tmp_path)
    entries = {str(number): {"content": name, "special": False} for name, number in DREAM.items()}
    more = {151657: "<tool_call>", 151658: "<E>", 151659: "<role>"}
    entries |= {str(number): {"content": name, "special": False, "lstrip": True} for number, name in more.items()}
    change(directory, added_tokens_decoder=entries, eos_token="<E>", additional_special_tokens=["<role>"])
    tokenizer = loaded(directory)
    assert tokenizer.encode("<|im_end|><|mask|><E><role>") == [*b"<|im_end|><|mask|><E><role>"]
    assert tokenizer.encode("a <tool_call>") == [ord("a"), 151657]
    assert tokenizer.decode([DREAM["<|im_end|>"], 151658, 151657]) == "<tool_call>"


def test_a_tokenizer_json_comes_first(tmp_path: Path) -> None:
    directory = with_merges(tmp_path, "a b")
    assert loaded(directory).encode("ab") == [256]
    model: dict[str, Any] = {"type": "BPE", "vocab": {"a": 3, "b": 4, "ab": 7}, "merges": [["a", "b"]]}
    whole = {"model": model, "added_tokens": []}
    (directory / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    assert loaded(directory).encode("ab") == [7]
    assert loaded(directory).added == DREAM  # what is listed beside it still counts


def test_ids_that_a_vocabulary_cannot_have_are_refused(tmp_path: Path) -> None:
    added = {"id": 9, "content": "<|x|>", "special": True} | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    whole = {
        "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
        "added_tokens": [{**added, "normalized": False}],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer.json: added token '<\|x\|>' cannot have the id 9"):
        load_tokenizer(tmp_path)


def test_settings_that_cut_or_pad_a_prompt_are_left_out(tmp_path: Path) -> None:
    cutting = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}
    whole = {"model": model, "truncation": cutting, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    assert loaded(tmp_path).encode("abab") == [0, 1, 0, 1]


@pytest.mark.parametrize("line", ["a", "a b c", "a  b", " a b"])
def test_a_damaged_merge_is_named(line: str, tmp_path: Path) -> None:
    with_merges(tmp_path, "a b")
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\na b\n{line}\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"merges.txt: line 3 is not a pair of tokens; fetch the file again"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "line"),
    [
        ("merges.txt", None, "merges.txt: is missing beside vocab.json"),
        ("merges.txt", "a nowhere", "vocab.json: is not a usable tokenizer"),
        ("vocab.json", "[]", "vocab.json: does not hold an object"),
        ("vocab.json", '{"a": "b"}', "vocab.json: is not a usable tokenizer"),
        ("added_tokens.json", '{"<|x|>": "1"}', r"added_tokens.json: added token '<\|x\|>' has the id '1'"),
        ("tokenizer.json", "{}", "tokenizer.json: is not a usable tokenizer"),
        ("tokenizer.json", '{"model": [], "added_tokens": [1]}', "tokenizer.json: is not a usable tokenizer"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "a"}}}', "is not a usable tokenizer"),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}', "is not a usable tokenizer"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"7": {}}}', "added token '' has the id 7"),
        ("tokenizer_config.json", '{"tokenizer_class": "GPT2Tokenizer"}', "'GPT2Tokenizer' needs a tokenizer.json"),
    ],
)
def test_damage_is_named(file: str, content: str | None, line: str, tmp_path: Path) -> None:
    write_dream(tmp_path)
    path = tmp_path / file
    if content is None:
        path.unlink()
    else:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=line) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
