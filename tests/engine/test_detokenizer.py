"""Final text as it grows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dkv
from dkv.engine.detokenizer import Deltas
from dkv.engine.sequence import Track
from tests.support.checkpoints import EOS


def track(lm: dkv.DiffusionLM, stop: tuple[str, ...] = ()) -> Track:
    settings = replace(lm.request([1], 4).settings, stop=stop)
    return Track(lm.model.config, lm.tokenizer, [1], settings, 0, "")


@given(text=st.text(max_size=12), stop=st.lists(st.text(min_size=1, max_size=3), max_size=2))
def test_the_parts_make_the_whole(lm: dkv.DiffusionLM, text: str, stop: list[str]) -> None:
    """Token by token, also where a character takes several, and nothing told is ever taken back."""
    assert lm.tokenizer is not None
    text = text.encode("utf-8", "ignore").decode()
    one = track(lm, tuple(stop))
    deltas, ids, told, all_ids = Deltas(one), [*lm.tokenizer.encode_bare(text), EOS], "", list[int]()
    for count in range(len(ids)):
        if one.find_stop(ids[:count]) is not None:
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
    deltas = Deltas(track(lm))
    assert deltas.grow(ids[:1]) == ((ids[0],), "")
    assert deltas.grow(ids) == ((ids[1],), "é")


@pytest.mark.parametrize(("text", "told"), [("ab", "ab"), ("abS", "ab"), ("abST", "ab"), ("abSx", "abSx")])
def test_what_may_begin_a_stop_text_waits(lm: dkv.DiffusionLM, text: str, told: str) -> None:
    assert lm.tokenizer is not None
    assert Deltas(track(lm, ("STOP",))).grow(lm.tokenizer.encode_bare(text))[1] == told


def test_without_a_tokenizer_ids_alone(bare_lm: dkv.DiffusionLM) -> None:
    deltas = Deltas(track(bare_lm))
    assert deltas.grow([4, 5]) == ((4, 5), "")
    assert deltas.close([4, 5, 6, EOS], None) == ((6,), "")
