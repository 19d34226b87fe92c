"""Texts with holes: what is given stays, what is filled looks at both sides, and caches and company change nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dkv
from dkv.core.canvas import GIVEN
from dkv.decoders import RandomOrder
from dkv.decoders.confidence import Confidence
from dkv.decoders.random_order import Random
from dkv.engine.infill import Part, canvas_ids, escape, infilled
from dkv.models import Transformer
from tests.support.checkpoints import CONFIG, EOS, EOT, MASK, tensors_of
from tests.support.engine_runs import alone, finished, same
from tests.support.network import llada_network
from tests.support.runs import DEGENERATE, POLICIES, Scripted

HOLED: list[Part] = [[5, 6, 7], 3, [8, 9], 4, [10, 11, 12, 13]]
"""Prompt 5 6 7, then a region of 9 positions with 8 9 in it, then four more."""
DECODERS = [
    "confidence",
    "random",
    "threshold:tau=0.2",
    "factor",
    "entropy",
    "maskgit-plus",
    "origin",
    "credit:tau=0.02",
]


def drawn(lm: dkv.DiffusionLM, rng: random.Random) -> dkv.Request:
    """A canvas with holes like no other."""
    parts: list[Part] = [[rng.randrange(200) for _ in range(rng.randint(0, 6))]]
    for _ in range(rng.randint(1, 3)):
        parts += [rng.randint(1, 4), [rng.randrange(200) for _ in range(rng.randint(1, 6))]]
    request = lm.infill_request(
        parts,
        block_length=rng.choice([None, None, 2, 3]),
        temperature=rng.choice([0.0, 0.8]),
        cfg_scale=rng.choice([0.0, 0.0, 0.7]),
        seed=rng.randrange(99),
        cache=rng.choice(POLICIES),
        decoder=rng.choice(DECODERS),
        trace=rng.random() < 0.5,
    )
    return replace(request, number=rng.randrange(4))


def test_company_changes_nothing(lm: dkv.DiffusionLM) -> None:
    """Canvases with holes among ordinary requests: each as alone, what is given untouched, no end in a hole."""
    rng = random.Random(1)
    engine, requests = dkv.Engine(lm, active=6), dict[int, dkv.Request]()
    ids: dict[int, list[int]] = {}
    for n in range(30):
        request = (
            drawn(lm, rng)
            if n % 3
            else lm.request([n, n + 1], gen_length=6, block_length=3, seed=n, cache=rng.choice(POLICIES))
        )
        requests[engine.add(request)] = request
        ids[n] = []
    results: dict[int, dkv.Generation] = {}
    while updates := engine.step():
        for update in updates:
            ids[update.request_id] += update.ids
            if update.generation is not None:
                results[update.request_id] = update.generation
    for ticket, request in requests.items():
        result = results[ticket]
        assert same(result, alone(lm, request)), request
        if not request.given:
            continue
        assert ids[ticket] == result.token_ids  # the region in order, what is given in it included
        assert len(result.token_ids) == request.settings.gen_length
        for was, token in zip(request.given, result.token_ids, strict=False):
            assert token == was if was is not None else token not in (EOS, EOT, MASK)
        if isinstance(request.settings.decoder, (Confidence, Random)):  # one token a step, and no step without
            assert result.stats.forwards == request.given.count(None)


@pytest.mark.parametrize("cache", POLICIES)
@pytest.mark.parametrize("block", [None, 3])
def test_what_is_given_stays_and_each_hole_takes_its_own(cache: str, block: int | None, lm: dkv.DiffusionLM) -> None:
    result = lm.infill_canvas(HOLED, block_length=block, cache=cache, trace=True)
    assert [len(hole) for hole in result.holes] == [3, 4]
    first, second = result.holes
    assert result.token_ids == [5, 6, 7, *first, 8, 9, *second, 10, 11, 12, 13]
    assert result.generation.token_ids == [*first, 8, 9, *second]
    assert lm.tokenizer is not None
    assert result.texts == [lm.tokenizer.decode(first), lm.tokenizer.decode(second)]
    assert result.text == lm.tokenizer.decode(result.token_ids)
    fixed = [place for step in result.generation.trace or [] for place, _ in step]
    assert sorted(fixed) == [0, 1, 2, 5, 6, 7, 8]
    assert result.generation.finish_reason == "length"


@pytest.mark.parametrize(("cached", "plain"), DEGENERATE)
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_degenerate_settings_are_exact(
    cached: str, plain: str, family: str, lm: dkv.DiffusionLM, dream: Transformer
) -> None:
    used = lm if family == "llada" else dkv.DiffusionLM(dream, None, audit=True)
    canvases: list[list[Part]] = [HOLED, [2, [4, 5], 1, [6]], [[9] * 7, 6, [1]]]
    for parts in canvases:
        one, other = (used.infill_canvas(parts, cache=cache, trace=True).generation for cache in (cached, plain))
        assert (one.token_ids, one.trace) == (other.token_ids, other.trace)


@pytest.mark.parametrize("cache", POLICIES)
def test_dream_fills_holes_too(cache: str, dream: Transformer) -> None:
    result = dkv.DiffusionLM(dream, None, audit=True).infill_canvas(HOLED, block_length=3, cache=cache)
    assert [len(hole) for hole in result.holes] == [3, 4]
    assert result.token_ids[-4:] == [10, 11, 12, 13]
    assert (result.texts, result.text) == (None, None)


@pytest.mark.parametrize("parts", [HOLED, [4, [20, 21, 22]], [[1], 1, [2], 1, [3], 1]])
def test_an_independent_program_fills_the_same(parts: list[Part], lm: dkv.DiffusionLM) -> None:
    """The published network in float64, everything computed at each step, the surest masked position fixed."""
    ids = canvas_ids(parts, lm.tokenizer, lm.model.config)
    network, left = llada_network(CONFIG, tensors_of(CONFIG)), [p for p, token in enumerate(ids) if token is None]
    tokens = [MASK if token is None else token for token in ids]
    while left:
        logits, _ = network.forward(tokens, range(len(tokens)), [{} for _ in range(network.layers)])
        chosen = {p: int(logits[p].index_fill(0, torch.tensor([MASK, EOS, EOT]), -torch.inf).argmax()) for p in left}
        surest = max(left, key=lambda p: float(logits[p].log_softmax(0)[chosen[p]]))
        tokens[surest] = chosen[surest]
        left.remove(surest)
    assert lm.infill_canvas(parts, cache="none").token_ids == tokens


def test_a_block_in_which_all_is_given_takes_no_step(lm: dkv.DiffusionLM) -> None:
    parts: list[Part] = [[1], 1, [2, 3, 4, 5, 6], 2, [7]]
    result = lm.infill_canvas(parts, block_length=2, cache="none", trace=True).generation
    assert [[place for place, _ in step] for step in result.trace or []] in ([[0], [6], [7]], [[0], [7], [6]])
    assert result.stats.forwards == 3
    assert result.stats.rows_computed == result.stats.rows_total == 3 * 10


def test_blocks_reach_into_what_follows(lm: dkv.DiffusionLM) -> None:
    """Five positions in blocks of four: the last block takes three of the suffix in, and leaves them alone."""
    result = lm.infill_canvas([[1], 5, [2, 3, 4, 5]], block_length=4)
    assert result.generation.token_ids[5:] == [2, 3, 4]
    assert result.token_ids[6:] == [2, 3, 4, 5]
    with pytest.raises(dkv.SettingError, match="block_length=4 must divide the 5 positions from the first hole's"):
        lm.infill_canvas([[1], 5, [2]], block_length=4)


def test_an_end_that_is_given_ends_nothing(lm: dkv.DiffusionLM) -> None:
    result = lm.infill_canvas([[1, EOS], 2, [EOS, EOT], 2, [EOS]])
    assert result.generation.stats.new_tokens == 6
    assert result.token_ids[4:6] == [EOS, EOT]


def test_ends_may_be_let_in(model: Transformer) -> None:
    table = torch.zeros(6, 272)
    table[:, EOS] = 9.0
    scripted = dkv.DiffusionLM(Scripted.like(model, table), None, audit=True)
    assert scripted.infill([1], [2], 3, min_tokens=1).token_ids[1:] == [EOS, EOS]
    assert EOS not in scripted.infill([1], [2], 3).token_ids


def test_between_two_texts(lm: dkv.DiffusionLM) -> None:
    """Texts are literal, and no template is used."""
    result = lm.infill("a {mask} b", " c", 4, cache="none")
    assert lm.tokenizer is not None
    assert result.prompt_ids == lm.tokenizer.encode("a {mask} b")
    whole = lm.infill_canvas("a {{mask} b{mask:4} c", cache="none")
    assert whole.generation.token_ids == result.token_ids
    assert whole.text == f"a {{mask}} b{result.text} c"


@given(text=st.text(alphabet="{mask:12}\\ é", max_size=30))
def test_any_text_can_be_literal(text: str, lm: dkv.DiffusionLM) -> None:
    assert lm.tokenizer is not None
    bare = lm.tokenizer.encode_bare(text)
    assert canvas_ids(escape(text) + "-{mask:2}", lm.tokenizer, lm.model.config) == [
        *bare, *lm.tokenizer.encode_bare("-"), None, None,
    ]  # fmt: skip
    assert canvas_ids([text, 1, [4]], lm.tokenizer, lm.model.config) == [*bare, None, 4]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a{mask}b", [97, None, 98]),
        ("{mask:00000000000003}b", [None, None, None, 98]),
        ("{mask:3}b", [None, None, None, 98]),
        ("a{mask}{mask:2}", [97, None, None, None]),
        ("{{mask}{mask}", [*b"{mask}", None]),
        ("{{{mask:2}{mask}", [*b"{{mask:2}", None]),
        ("{mask:x}{mask}", [*b"{mask:x}", None]),
        ("<|mdm_mask|>{mask}", [*b"<|mdm_mask|>", None]),
    ],
)
def test_marks(text: str, read: list[int | None], lm: dkv.DiffusionLM) -> None:
    assert lm.tokenizer is not None
    expected = [None if t is None else lm.tokenizer.encode_bare(chr(t))[0] for t in read]
    if text.startswith("<"):
        assert MASK not in canvas_ids(text, lm.tokenizer, lm.model.config)
    assert canvas_ids(text, lm.tokenizer, lm.model.config) == expected


def test_an_order_given_ahead(lm: dkv.DiffusionLM) -> None:
    order = RandomOrder([[[11, 3, 10, 4, 9, 5, 8]]])
    result = lm.infill_canvas(HOLED, decoder=order, cache="none", trace=True).generation
    assert [place for step in result.trace or [] for place, _ in step] == [8, 0, 7, 1, 6, 2, 5]


def test_the_guide_sees_nothing_that_is_given(lm: dkv.DiffusionLM) -> None:
    request = lm.infill_request(HOLED, cfg_scale=0.5, cache="none")
    engine = dkv.Engine(lm)
    engine.add(request)
    engine.step()
    (batch,) = engine.batches.values()
    assert batch.state is not None
    canvas = batch.state.canvas
    own, guide = canvas.tokens.tolist()
    fixed = (canvas.committed_at[1] != GIVEN) & ~canvas.masked[1]
    assert [t for t, f in zip(guide, fixed.tolist(), strict=True) if not f] == [MASK] * 15
    assert guide[int(fixed.nonzero())] == own[int(fixed.nonzero())]


def test_a_request_s_result_can_be_read(lm: dkv.DiffusionLM) -> None:
    request = lm.infill_request(HOLED)
    engine = dkv.Engine(lm)
    ticket = engine.add(request)
    read = infilled(request, finished(engine)[ticket], lm.tokenizer)
    assert read.holes == lm.infill_canvas(HOLED).holes


@pytest.mark.parametrize(
    ("canvas", "message"),
    [
        ("no hole", "canvas: has no hole; mark one with {mask}"),
        ("", "canvas: has no hole"),
        ("{mask:5}", "canvas: is all holes; give at least one token"),
        ([3], "canvas: is all holes"),
        ("a{mask:0}", "canvas: a hole of 0 positions must have at least 1"),
        (["a", -2], "canvas: a hole of -2 positions"),
        (["a", True], "canvas: a hole of True positions"),
        ("a{mask:99999999999}b{mask}", "canvas: is longer than the model's context of 96"),
        ("a{mask:" + "9" * 5000 + "}", "canvas: is longer than the model's context of 96"),
        ("a{mask:" + "0" * 20 + "}", "canvas: a hole of 0 positions"),
        ("a{mask:999999999}", "canvas: is longer than the model's context of 96"),
        ([[1, 999], 2], "canvas: 999 is not a token id below 272"),
        ([1.5, 2], "canvas: 1.5 is neither a text, nor"),
        (5, "canvas: 5 is neither a text nor a list"),
    ],
)
def test_bad_canvases(canvas: Any, message: str, lm: dkv.DiffusionLM) -> None:
    with pytest.raises((dkv.PromptError, dkv.SettingError), match=message) as caught:
        lm.infill_canvas(canvas)
    assert "\n" not in str(caught.value)


def test_bad_arguments(lm: dkv.DiffusionLM, bare_lm: dkv.DiffusionLM) -> None:
    with pytest.raises(dkv.PromptError, match="no tokenizer; give lists of token ids"):
        bare_lm.infill("a", "b", 2)
    with pytest.raises(dkv.SettingError, match="gen_length=0 must be a whole number"):
        lm.infill("a", "b", 0)
    with pytest.raises(dkv.SettingError, match="gen_length=5 must be a multiple of block_length=2"):
        lm.infill("a", "bcd", 5, block_length=2)
    with pytest.raises(dkv.SettingError, match="min_tokens=4 must be a whole number from 0 to gen_length=3"):
        lm.infill("a", "bcd", 3, min_tokens=4)
    with pytest.raises(dkv.SettingError, match="block_length=0 must be"):
        lm.infill("a", "bcd", 3, block_length=0)
