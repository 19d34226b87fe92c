"""The repetition penalty: by its definition, token by token, and through the loop."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import dkv
from dkv.core.canvas import GIVEN, NEVER, Canvas, lay_out
from dkv.core.logits_processors import EndOfTextControl, QueriedPositions, RepetitionPenalty
from dkv.models import Transformer
from tests.support.checkpoints import EOS, MASK, VOCAB
from tests.support.engine_runs import alone, finished, mixed_request, same
from tests.support.runs import Scripted, play, start

MASK_ID = 15
"""Of the small canvases here, whose vocabulary is 16 tokens."""


def queried(canvas: Canvas) -> QueriedPositions:
    """All masked positions."""
    sequence, position = canvas.masked.nonzero().unbind(1)
    return QueriedPositions(sequence, position, canvas)


def penalized(logits: Tensor, canvas: Canvas, penalty: list[float]) -> Tensor:
    """By the definition: each committed token of the sequence once."""
    result = logits.clone()
    positions = queried(canvas)
    for row, sequence in enumerate(positions.sequence.tolist()):
        places = range(int(canvas.length[sequence]))
        held = {int(canvas.tokens[sequence, p]) for p in places if int(canvas.committed_at[sequence, p]) != NEVER}
        for token in held:
            x = logits[row, token]
            result[row, token] = x / penalty[sequence] if x > 0 else x * penalty[sequence]
    return result


def test_tokens_that_are_there_are_divided_or_multiplied() -> None:
    canvas = lay_out([[3, 3, 5], [4]], 2, MASK_ID, [0, 1])
    logits = torch.tensor([[0.0, 1.0, 2.0, 4.0, 6.0, -3.0, 0.5]]).repeat(4, 1)
    got = RepetitionPenalty(torch.tensor([2.0, 0.5]))(logits, queried(canvas))
    assert got.tolist() == [[0.0, 1.0, 2.0, 2.0, 6.0, -6.0, 0.5]] * 2 + [[0.0, 1.0, 2.0, 4.0, 12.0, -3.0, 0.5]] * 2


PROMPTS = st.lists(st.integers(0, 15), max_size=4)
TAILS = st.lists(st.none() | st.integers(0, 15), min_size=1, max_size=5)


@given(
    rows=st.lists(st.tuples(PROMPTS, TAILS), min_size=1, max_size=4),
    seed=st.integers(0, 1 << 30),
    penalties=st.lists(st.sampled_from([0.25, 1.0, 1.3, 7.0]), min_size=4, max_size=4),
)
def test_it_follows_the_definition(
    rows: list[tuple[list[int], list[int | None]]], seed: int, penalties: list[float]
) -> None:
    """Prompts of any length, also none, and given tokens between and after masked positions; the mask token may be
    among them, and rows of other lengths."""
    canvas = lay_out([prompt for prompt, _ in rows], 5, MASK_ID, [0] * len(rows), given=[tail for _, tail in rows])
    canvas.tokens = torch.where(canvas.live, canvas.tokens, 2)  # padding, whatever it holds
    positions = queried(canvas)
    logits = 4 * torch.randn(len(positions.sequence), 16, generator=torch.Generator().manual_seed(seed))
    expected = penalized(logits, canvas, penalties)
    before = logits.clone()
    got = RepetitionPenalty(torch.tensor(penalties[: len(rows)]))(logits, positions)
    assert got.equal(expected)
    unasked = torch.tensor([penalties[sequence] == 1 for sequence in positions.sequence.tolist()], dtype=torch.bool)
    assert got[unasked].equal(before[unasked])


def test_positions_that_a_growing_canvas_does_not_have_yet_do_not_count() -> None:
    canvas = lay_out([[3]], 4, MASK_ID, [0])
    canvas.live = canvas.live & (canvas.position < 3)
    canvas.tokens[0, 3:] = 6
    canvas.committed_at[0, 4] = GIVEN
    logits = torch.ones(2, 16)
    got = RepetitionPenalty(torch.tensor([2.0]))(logits, queried(canvas))
    assert got.eq(0.5).nonzero().tolist() == [[0, 3], [1, 3]]


def test_nothing_is_committed_yet() -> None:
    """A hole at the start of a text, and nothing after it."""
    canvas = lay_out([[]], 3, MASK_ID, [0])
    logits = torch.randn(3, 16)
    assert RepetitionPenalty(torch.tensor([2.0]))(logits.clone(), queried(canvas)).equal(logits)


def test_what_may_not_be_chosen_stays_so() -> None:
    canvas = lay_out([[3, 4]], 3, MASK_ID, [0])
    positions, logits = queried(canvas), torch.ones(3, 16)
    logits = EndOfTextControl(torch.tensor([3]), torch.tensor([0.0]), torch.tensor([9]))(logits, positions)
    got = RepetitionPenalty(torch.tensor([0.25]))(logits, positions)
    assert got[:, 3].eq(-torch.inf).all()
    assert got[:, 4].eq(4).all()


def test_it_is_there_only_where_a_sequence_asks_for_it(bare_lm: dkv.DiffusionLM) -> None:
    plain = bare_lm.request([1, 2], gen_length=8).settings
    assert RepetitionPenalty.of([plain, replace(plain, repetition_penalty=1)], torch.device("cpu")) is None
    some = RepetitionPenalty.of([plain, replace(plain, repetition_penalty=1.5)], torch.device("cpu"))
    assert some is not None
    assert some.penalty.tolist() == [1.0, 1.5]


@pytest.mark.parametrize("value", [0, -1.2, 1e-9, 1e9, float("nan"), float("inf"), "much", True, None])
def test_values_that_are_refused(value: Any, bare_lm: dkv.DiffusionLM) -> None:
    with pytest.raises(dkv.SettingError, match=r"repetition_penalty=.* must (lie in .*|be a number); 1: no penalty"):
        replace(bare_lm.request([1, 2], gen_length=8).settings, repetition_penalty=value)


def test_requests_with_different_penalties_share_a_batch(lm: dkv.DiffusionLM) -> None:
    """Each has the result that it has alone; those without a penalty are as if there were none."""
    rng = random.Random(0)
    penalties = [rng.choice([1.0, 1.0, 1.4, 5.0, 0.5]) for _ in range(18)]
    requests = [
        mixed_request(lm, rng, number, repetition_penalty=penalty, min_tokens=rng.choice([0, 8]))
        for number, penalty in enumerate(penalties)
    ]
    engine = dkv.Engine(lm, active=7)
    added = {engine.add(request): request for request in requests}
    changed = 0
    for request_id, result in finished(engine).items():
        request = added[request_id]
        assert same(result, alone(lm, request))
        plain = alone(lm, replace(request, settings=replace(request.settings, repetition_penalty=1.0)))
        changed += result.token_ids != plain.token_ids
        assert request.settings.repetition_penalty != 1 or result.token_ids == plain.token_ids
    assert changed > 3


@pytest.mark.parametrize("temperature", [0.0, 0.01])
def test_a_text_of_one_word_becomes_one_of_many(temperature: float, model: Transformer) -> None:
    """Every position likes 20, then 21, then 22 ... best: without a penalty all choose the first; with one each token
    is chosen once, as long as the others are within its reach."""
    table = torch.zeros(7, VOCAB)
    table[:, 20:30] = 10 - 0.1 * torch.arange(10)
    scripted = Scripted.like(model, table, mask_id=MASK, eos_ids=(EOS,))
    plain = start(scripted, [[22]], 6, temperature=temperature)
    play(plain)
    assert plain.canvas.tokens[0, 1:].tolist() == [20] * 6
    state = start(scripted, [[22]], 6, temperature=temperature)
    state.logits_processors = (RepetitionPenalty(torch.tensor([2.0])),)
    steps = play(state)
    assert sorted(state.canvas.tokens[0, 1:].tolist()) == [20, 21, 23, 24, 25, 26]
    for step in steps:
        assert step.predictions is not None
        exact = table[0].double().log_softmax(0)[step.predictions.token]
        torch.testing.assert_close(step.predictions.confidence.double(), exact, atol=1e-6, rtol=1e-6)
