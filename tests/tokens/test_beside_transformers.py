"""The same files in transformers: the same strings and ids, whichever release is installed; never its remote code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dkv.tokens import Tokenizer, load_tokenizer
from tests.support.vocabularies import DREAM, LLADA, OWN_DREAM, OWN_LLADA, train_dream, write_llada

transformers = pytest.importorskip("transformers")

TEXTS = [
    "",
    "Hello there, world!",
    "it's IT'S we'll 3.14 12345",
    "  two  blanks \n\n\n and\tlines\r\n \n",
    "naïve – 12 €, e\u0301, 日本語 🙂",
    "def f(x):\n    return x != 0  # <|not_special|>\n",
    "...!?\n\n--a",
]
CORPUS = [*TEXTS * 3, "hello world it's we'll return naïve 12 日本語 lines and blanks "]
SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATIONS = [
    [{"role": "user", "content": "Hello there"}],
    [{"role": "user", "content": "\n\n leading and trailing \n"}],
    [SYSTEM, {"role": "user", "content": "it's 日本語"}],
    [
        SYSTEM,
        {"role": "user", "content": "12 lines"},
        {"role": "assistant", "content": "\nreturn x\n"},
        {"role": "user", "content": "and?"},
    ],
]


def both(directory: Path) -> tuple[Tokenizer, Any]:
    ours = load_tokenizer(directory)
    assert ours is not None
    return ours, transformers.AutoTokenizer.from_pretrained(str(directory))


@pytest.fixture(scope="module", params=["llada", "dream"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    """A tokenizer of each family as dkv and as transformers read it."""
    directory = tmp_path_factory.mktemp(request.param)
    return both(write_llada(directory, OWN_LLADA) if request.param == "llada" else train_dream(directory, CORPUS))


def test_texts_have_the_same_ids(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    for text in TEXTS:
        assert ours.encode(text) == theirs(text)["input_ids"]
        assert ours.decode(ours.encode(text)) == theirs.decode(ours.encode(text), clean_up_tokenization_spaces=False)


def test_conversations_have_the_same_strings_and_ids(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    for conversation in CONVERSATIONS:
        string = theirs.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        assert ours.render(conversation) == string
        assert ours.encode_chat(conversation) == theirs(string, add_special_tokens=False)["input_ids"]
        assert ours.encode_chat(conversation) == theirs.apply_chat_template(
            conversation, add_generation_prompt=True, return_dict=False
        )


def test_control_tokens_have_the_same_ids(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    names = set(ours.added)
    assert names in (set(LLADA), set(DREAM))
    assert ours.added == {name: theirs.convert_tokens_to_ids(name) for name in names}


def test_the_dream_vocabulary_was_learnt(tmp_path: Path) -> None:
    """Else the comparison would only compare bytes."""
    ours, theirs = both(train_dream(tmp_path, CORPUS))
    assert len(ours.encode("hello world")) < len("hello world") / 2
    assert theirs.chat_template == OWN_DREAM
