"""The tokenizer: reproducible, lossless, and read by transformers without remote code."""

from __future__ import annotations

import random

import pytest

from dkv.tiny import MODEL_DIR
from recipes.tiny.tasks import ALL
from recipes.tiny.tiny_tokenizer import END, SPECIAL, as_chat, build, load, special_id


def test_build_is_deterministic() -> None:
    assert build(count=100).to_str() == build(count=100).to_str()


@pytest.mark.parametrize("name", sorted(ALL))
def test_round_trip_and_length(name: str) -> None:
    tokenizer, rng = load(MODEL_DIR), random.Random(9)
    for _ in range(100):
        example = ALL[name].training(rng)
        for text in (example.prompt, example.answer):
            assert tokenizer.decode(tokenizer.encode(text).ids) == text
        assert len(tokenizer.encode(example.answer).ids) < example.gen_length  # room for the end-of-text
        assert len(tokenizer.encode(as_chat(example.messages)).ids) <= 1600


@pytest.mark.parametrize("text", ["naïve – 12 €\n\n\ttab", "日本語", "  two  blanks ", "a\r\nb"])
def test_any_text_round_trips(text: str) -> None:
    tokenizer = load(MODEL_DIR)
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_digits_are_single_everywhere() -> None:
    tokenizer = load(MODEL_DIR)
    number = tokenizer.encode("123").ids
    assert len(number) == 3
    for text in (" 123", "x=123", "[123]", "-123,"):
        ids = tokenizer.encode(text).ids
        assert any(ids[i : i + 3] == number for i in range(len(ids)))


def test_transformers_reads_it() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(MODEL_DIR))
    ours = load(MODEL_DIR)
    assert theirs.eos_token == theirs.pad_token == END
    assert [theirs.convert_tokens_to_ids(token) for token in SPECIAL] == [special_id(ours, token) for token in SPECIAL]
    chat = [{"role": "user", "content": "Work out: 3*4"}]
    text = theirs.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == as_chat([("user", "Work out: 3*4")])
    assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text).ids
    assert theirs(text)["input_ids"] == ours.encode(text).ids  # nothing is added behind the caller's back


def test_missing_special_token_is_refused() -> None:
    with pytest.raises(ValueError, match="no token <nothing>"):
        special_id(load(MODEL_DIR), "<nothing>")
