"""Results and frames: texts, ends, statistics and traces are those of the canvas."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dkv
from dkv.caches import make_cache
from dkv.decoders import make_decoder
from dkv.models import Transformer
from dkv.tokenizer import Tokenizer, load_tokenizer
from tests.support.checkpoints import EOS, EOT, MASK, VOCAB
from tests.support.runs import POLICIES, Scripted

IDS = st.lists(st.integers(0, 255), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def tokenizer(spoken: Path) -> Tokenizer:
    loaded = load_tokenizer(spoken)
    assert loaded is not None
    return loaded


def saying(model: Transformer, tokenizer: Tokenizer | None, ids: list[int], order: str = "right") -> dkv.DiffusionLM:
    """A model that answers the one-token prompt with `ids`, fixed from the left or from the right."""
    table = torch.zeros(len(ids) + 1, VOCAB)
    for place, token in enumerate(ids):
        table[place + 1, token] = 5.0 + (place if order == "right" else -place) * 0.1
    return dkv.DiffusionLM(Scripted.like(model, table), tokenizer, audit=True)


def test_the_models_do_end_at_different_places(ending: dkv.DiffusionLM) -> None:
    results = ending.generate([[n] for n in range(40)], gen_length=12, cache="none")
    ends = [r.stats.new_tokens for r in results if r.finish_reason == "stop"]
    assert 5 < len(ends) < 40
    assert len(set(ends)) > 3


@pytest.mark.parametrize("cache", POLICIES)
@settings(max_examples=5)
@given(
    prompts=st.lists(IDS, min_size=1, max_size=3),
    schedule=st.sampled_from([(8, 8, 8), (8, 4, 8), (8, 4, 4), (9, 3, 12)]),
    decoder=st.sampled_from(["confidence", "random"]),
    temperature=st.sampled_from([0.0, 0.7]),
)
def test_stopping_early_loses_nothing(
    cache: str,
    ending: dkv.DiffusionLM,
    prompts: list[list[int]],
    schedule: tuple[int, int, int],
    decoder: str,
    temperature: float,
) -> None:
    options: dict[str, Any] = {"cache": cache, "decoder": decoder, "temperature": temperature, "seed": 5}
    options |= zip(("gen_length", "block_length", "steps"), schedule, strict=True)
    early = ending.generate(prompts, **options)
    late = ending.generate(prompts, stop_at_eos=False, **options)
    for one, other in zip(early, late, strict=True):
        assert one.text == other.text
        assert one.finish_reason == other.finish_reason
        assert one.stats.new_tokens == other.stats.new_tokens
        assert one.stats.forwards <= other.stats.forwards
        kept = one.stats.new_tokens
        assert one.token_ids[: kept + 1] == other.token_ids[: kept + 1]
        assert set(one.token_ids[kept + 1 :]) <= {EOS}


def test_stopping_early_saves_forwards(ending: dkv.DiffusionLM) -> None:
    prompts = [[n] for n in range(40)]
    early, late = (
        sum(r.stats.forwards for r in ending.generate(prompts, gen_length=12, block_length=4, stop_at_eos=stop))
        for stop in (True, False)
    )
    assert early < late == 40 * 12


def test_text_ends_at_the_end_of_text(model: Transformer, tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("Yes"), EOS, *tokenizer.encode("no")]
    (early,) = saying(model, tokenizer, ids).generate([[1]], gen_length=6)
    assert (early.text, early.finish_reason, early.stats.new_tokens) == ("Yes", "stop", 3)
    assert early.token_ids == [*ids[:3], EOS, EOS, EOS]
    (late,) = saying(model, tokenizer, ids).generate([[1]], gen_length=6, stop_at_eos=False)
    assert (late.text, late.finish_reason, late.stats.new_tokens) == ("Yes", "stop", 3)
    assert late.token_ids == ids


def test_a_turn_end_ends_too(model: Transformer, tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("Yes"), EOT, *tokenizer.encode("no")]
    (result,) = saying(model, tokenizer, ids, "left").generate([[1]], gen_length=6)
    assert (result.text, result.finish_reason, result.stats.forwards) == ("Yes", "stop", 4)
    assert result.token_ids == [*ids[:4], EOS, EOS]


def test_a_full_canvas_is_a_length(model: Transformer, tokenizer: Tokenizer) -> None:
    (result,) = saying(model, tokenizer, tokenizer.encode("Yes no")).generate([[1]], gen_length=6)
    assert (result.text, result.finish_reason, result.stats.new_tokens) == ("Yes no", "length", 6)


def test_an_end_in_the_last_position(model: Transformer, tokenizer: Tokenizer) -> None:
    (result,) = saying(model, tokenizer, [*tokenizer.encode("Yes"), EOS]).generate([[1]], gen_length=4)
    assert (result.text, result.finish_reason, result.stats.new_tokens) == ("Yes", "stop", 3)


def test_without_a_tokenizer_there_is_no_text(model: Transformer) -> None:
    (result,) = saying(model, None, [5, EOS, 6]).generate([[1]], gen_length=3)
    assert (result.text, result.finish_reason, result.token_ids) == (None, "stop", [5, EOS, EOS])


@pytest.mark.parametrize(
    ("stop", "text", "tokens"),
    [
        ("b", "aa", 2),
        (["c", "b"], "aa", 2),
        ("bc", "aa", 2),
        ("a", "", 0),
        ("z", "aabca", 5),
        (("z", "ca"), "aab", 3),
        ([], "aabca", 5),
    ],
)
@pytest.mark.parametrize("order", ["left", "right"])
def test_stop_texts(
    stop: str | list[str], text: str, tokens: int, order: str, model: Transformer, tokenizer: Tokenizer
) -> None:
    lm = saying(model, tokenizer, [*tokenizer.encode("aabca"), EOS, EOS], order)
    (result,) = lm.generate([[1]], gen_length=7, stop=stop)
    assert (result.text, result.finish_reason, result.stats.new_tokens) == (text, "stop", tokens)
    assert len(result.token_ids) == 7


def test_a_stop_text_saves_forwards(model: Transformer, tokenizer: Tokenizer) -> None:
    lm = saying(model, tokenizer, tokenizer.encode("one. two. three"), "left")
    (result,) = lm.generate([[1]], gen_length=15, stop=". t")
    assert (result.text, result.stats.forwards) == ("one", 6)


def test_a_stop_text_after_the_end_does_not_count(model: Transformer, tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("ab"), EOS, *tokenizer.encode("cd")]
    (result,) = saying(model, tokenizer, ids).generate([[1]], gen_length=5, stop="c", stop_at_eos=False)
    assert result.text == "ab"


def test_what_made_it_is_recorded(bare_lm: dkv.DiffusionLM) -> None:
    first, second = bare_lm.generate(
        [[1, 2], [3]], gen_length=8, block_length=4, steps=4, seed=[4, 9], temperature=0.5, cache="dkv-pd:refresh=2"
    )
    assert (first.prompt_ids, second.prompt_ids) == ([1, 2], [3])
    assert (first.seed, second.seed) == (4, 9)
    settings_ = first.settings
    assert (settings_.gen_length, settings_.block_length, settings_.steps, settings_.temperature) == (8, 4, 4, 0.5)
    assert settings_.cache == make_cache("dkv-pd:refresh=2")
    assert settings_.decoder == make_decoder("confidence")
    assert first.version
    assert first.trace is None


def test_statistics_and_trace(bare_lm: dkv.DiffusionLM) -> None:
    (result,) = bare_lm.generate(
        [[1, 2]], gen_length=8, cache="dkv-decode:refresh=100,warmup=1", trace=True, stop_at_eos=False
    )
    stats = result.stats
    assert stats.forwards == 8
    assert stats.rows_total == 8 * 10
    assert stats.rows_computed == 10 + (8 + 7 + 6 + 5 + 4 + 3 + 2)
    assert stats.seconds > 0
    assert stats.tokens_per_second == stats.new_tokens / stats.seconds
    assert result.trace is not None
    assert [len(step) for step in result.trace] == [1] * 8
    assert dict(pair for step in result.trace for pair in step) == dict(enumerate(result.token_ids))


def test_statistics_are_of_each_sequence(ending: dkv.DiffusionLM) -> None:
    """In company as alone, but for the seconds."""
    prompts = [[n] * (n % 3 + 1) for n in range(12)]
    together = ending.generate(prompts, gen_length=8, block_length=4, trace=True, seed=0)
    assert len({r.stats.forwards for r in together}) > 1
    for result, prompt in zip(together, prompts, strict=True):
        (alone,) = ending.generate([prompt], gen_length=8, block_length=4, trace=True, seed=0)
        assert alone.trace == result.trace
        assert (alone.stats.forwards, alone.stats.rows_computed, alone.stats.rows_total, alone.stats.new_tokens) == (
            result.stats.forwards, result.stats.rows_computed, result.stats.rows_total, result.stats.new_tokens,
        )  # fmt: skip


def test_a_pause_in_the_schedule_is_no_end(bare_lm: dkv.DiffusionLM) -> None:
    """More steps than tokens: the time runs on to the last block, and idle steps are no forwards."""
    (result,) = bare_lm.generate(
        [[1, 2]],
        gen_length=4,
        block_length=2,
        steps=12,
        cache="dkv-greedy:refresh=100",
        decoder="random",
        stop_at_eos=False,
        trace=True,
    )
    assert MASK not in result.token_ids
    assert EOS not in result.token_ids
    assert result.stats.forwards == 6  # of each block: two that decode, one that settles
    assert result.stats.rows_total == 6 * 6
    (frames,) = [
        list(
            bare_lm.stream(
                [1, 2], gen_length=4, block_length=2, steps=12, cache="dkv-greedy:refresh=100", decoder="random"
            )
        )
    ]
    assert len(frames) == 12


@pytest.mark.parametrize("cache", POLICIES)
@settings(max_examples=5)
@given(prompt=IDS, temperature=st.sampled_from([0.0, 0.7]))
def test_the_last_frame_is_what_generate_gives(
    cache: str, ending: dkv.DiffusionLM, prompt: list[int], temperature: float
) -> None:
    options: dict[str, Any] = {"cache": cache, "temperature": temperature, "seed": 3}
    frames = list(ending.stream(prompt, gen_length=8, block_length=4, **options))
    (result,) = ending.generate([prompt], gen_length=8, block_length=4, **options)
    last = frames[-1].generation
    assert last is not None
    assert (last.token_ids, last.text, last.finish_reason) == (result.token_ids, result.text, result.finish_reason)
    assert frames[-1].text == result.text
    assert last.stats.rows_computed == result.stats.rows_computed
    assert [frame.generation for frame in frames[:-1]] == [None] * (len(frames) - 1)


def test_frames_tell_what_is_fixed_what_is_a_guess_and_what_was_computed(bare_lm: dkv.DiffusionLM) -> None:
    frames = list(
        bare_lm.stream([1, 2], gen_length=6, block_length=3, cache="dkv-decode:refresh=100", stop_at_eos=False)
    )
    assert [frame.step for frame in frames] == list(range(6))
    for number, frame in enumerate(frames):
        assert sum(frame.committed) == number + 1
        in_block = range(3) if number < 3 else range(3, 6)
        for place in range(6):
            expected = place in in_block and not frame.committed[place]
            assert frame.provisional[place] == expected
            assert (frame.token_ids[place] == MASK) == (not frame.committed[place] and not expected)
    assert [frame.prompt_computed for frame in frames] == [2, 2, 0, 2, 2, 0]
    assert frames[0].computed == [True] * 6
    assert sum(frames[5].computed) == 2
    for before, after in pairwise(frames):
        fixed = [place for place in range(6) if before.committed[place]]
        assert all(after.committed[place] for place in fixed)
        assert [after.token_ids[p] for p in fixed] == [before.token_ids[p] for p in fixed]
