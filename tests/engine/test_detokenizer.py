"""Final text as it grows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dkv
from dkv.engine.detokenizer import Detokenizer
from dkv.engine.sequence import Sequence
from tests.support.checkpoints import EOS


def sequence(lm: dkv.DiffusionLM, stop: tuple[str, ...] = ()) -> Sequence:
    request = lm.request([1], gen_length=4)
    settings = replace(request.settings, stop=stop)
    request = replace(request, settings=settings)
    return Sequence(0, request, lm.model.config, lm.tokenizer, settings.cache, settings.decoder)


@given(text=st.text(max_size=12), stop=st.lists(st.text(min_size=1, max_size=3), max_size=2))
def test_the_parts_make_the_whole(lm: dkv.DiffusionLM, text: str, stop: list[str]) -> None:
    """Token by token, also where a character takes several, and nothing told is ever taken back."""
    assert lm.tokenizer is not None
    text = text.encode("utf-8", "ignore").decode()
    one = sequence(lm, tuple(stop))
    deltas, ids, told, all_ids = one.text, [*lm.tokenizer.encode_bare(text), EOS], "", list[int]()
    for count in range(len(ids)):
        if one.text.find_stop(ids[:count]) is not None:
            break
        new, more = deltas.grow(ids[:count])
        told, all_ids = told + more, [*all_ids, *new]
        assert not any(s in told for s in stop)
    final = one.result(ids)
    assert final.text is not None
    assert final.text.startswith(told)
    new, more = deltas.close(ids, final.text)
    assert told + more == final.text
    assert [*all_ids, *new] == ids[:-1]


def test_a_half_character_waits(lm: dkv.DiffusionLM) -> None:
    assert lm.tokenizer is not None
    ids = lm.tokenizer.encode_bare("é")
    assert len(ids) == 2
    deltas = sequence(lm).text
    assert deltas.grow(ids[:1]) == ((ids[0],), "")
    assert deltas.grow(ids) == ((ids[1],), "é")


@pytest.mark.parametrize(("text", "told"), [("ab", "ab"), ("abS", "ab"), ("abST", "ab"), ("abSx", "abSx")])
def test_what_may_begin_a_stop_text_waits(lm: dkv.DiffusionLM, text: str, told: str) -> None:
    assert lm.tokenizer is not None
    assert sequence(lm, ("STOP",)).text.grow(lm.tokenizer.encode_bare(text))[1] == told


def test_without_a_tokenizer_ids_alone(bare_lm: dkv.DiffusionLM) -> None:
    deltas = sequence(bare_lm).text
    assert deltas.grow([4, 5]) == ((4, 5), "")
    assert deltas.close([4, 5, 6, EOS], None) == ((6,), "")


class Counting:
    """A tokenizer of one character an id, that counts the ids it decodes."""

    turn_end_ids = ()

    def __init__(self) -> None:
        self.decoded = 0

    def decode(self, ids: list[int]) -> str:
        self.decoded += len(ids)
        return "".join(map(chr, ids))


@pytest.mark.parametrize("length", [100, 1000, 10000])
def test_a_stop_text_is_found_without_decoding_every_prefix(length: int) -> None:
    counting: Any = Counting()
    ids = [ord("a")] * (length - 4) + [ord(c) for c in "STOP"]
    assert Detokenizer(counting, (), ("STOP",)).find_stop(ids) == ("a" * (length - 4), length - 4)
    assert counting.decoded <= length * (length.bit_length() + 6)


def test_the_same_ids_are_decoded_once() -> None:
    counting: Any = Counting()
    text, ids = Detokenizer(counting, (), ("STOP",)), [ord("a")] * 50
    for _ in range(10):
        assert text.find_stop(ids) is None
        text.grow(ids)
    assert counting.decoded == 50


@given(text=st.text(max_size=20), cut=st.integers(0, 20))
def test_a_stop_text_is_cut_at_the_fewest_tokens(lm: dkv.DiffusionLM, text: str, cut: int) -> None:
    """As by decoding every prefix, also where a character takes several tokens."""
    tokenizer = lm.tokenizer
    assert tokenizer is not None
    text = text.encode("utf-8", "ignore").decode()
    ids = tokenizer.encode_bare(text)
    stop = text[cut : cut + 2]
    if not stop or stop not in tokenizer.decode(ids):
        return
    found = Detokenizer(tokenizer, (), (stop,)).find_stop(ids)
    at = tokenizer.decode(ids).find(stop)
    assert found == (text[:at], next(n for n in range(len(ids) + 1) if len(tokenizer.decode(ids[:n])) >= at))
