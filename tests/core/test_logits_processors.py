"""Logits processors: what they see and change, their order, and end-of-text control, the first of them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import dkv
from dkv.core.logits_processors import EndOfTextControl, QueriedPositions
from dkv.core.sampling import PLAIN_LOGIT_OPS, LogitOps, Predictions
from dkv.models import Transformer
from tests.support.checkpoints import EOS, EOT, MASK, VOCAB
from tests.support.engine_runs import alone, finished, mixed_request, same
from tests.support.runs import POLICIES, Scripted, play, start

ENDS = (EOS, EOT)


def one_end(lead: float) -> Tensor:
    """Logits that end the text everywhere, by `lead` before the token 7."""
    table = torch.zeros(9, VOCAB)
    table[:, 7], table[:, EOS] = 5.0, 5.0 + lead
    return table


def tokens(lm: dkv.DiffusionLM, **options: Any) -> list[int]:
    return lm.generate([[1]], gen_length=8, stop_at_eos=False, **options)[0].token_ids


def test_a_penalty_beyond_the_lead_keeps_the_text_going(model: Transformer) -> None:
    lm = dkv.DiffusionLM(Scripted.like(model, one_end(1.0)), None, audit=True)
    assert tokens(lm) == [EOS] * 8
    assert tokens(lm, eos_penalty=0.9) == [EOS] * 8
    assert tokens(lm, eos_penalty=1.1) == [7] * 8


def test_the_first_positions_hold_no_end(model: Transformer) -> None:
    lm = dkv.DiffusionLM(Scripted.like(model, one_end(20.0)), None, audit=True)
    assert tokens(lm, min_tokens=3) == [7] * 3 + [EOS] * 5
    assert tokens(lm, min_tokens=8) == [7] * 8
    assert tokens(lm, min_tokens=3, temperature=0.3, seed=1)[:3].count(EOS) == 0
    (result,) = lm.generate([[1]], gen_length=8, min_tokens=3)
    assert (result.token_ids, result.finish_reason, result.stats.new_tokens) == ([7] * 3 + [EOS] * 5, "stop", 3)
    assert (result.settings.min_tokens, result.settings.eos_penalty) == (3, 0.0)


def test_every_token_that_ends_a_turn_counts(model: Transformer, lm: dkv.DiffusionLM) -> None:
    table = one_end(1.0)
    table[:, EOT] = 7.0
    spoken = dkv.DiffusionLM(Scripted.like(model, table), lm.tokenizer, audit=True)
    assert tokens(spoken) == [EOT] * 8
    assert tokens(spoken, min_tokens=2) == [7] * 2 + [EOT] * 6
    assert tokens(spoken, eos_penalty=2.5) == [7] * 8


@dataclass
class Noting:
    """A processor that keeps what it gets, and adds to the logits of one token."""

    token: int
    amount: float
    logits: list[Tensor] = field(default_factory=list)
    queried: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def __call__(self, logits: Tensor, positions: QueriedPositions) -> Tensor:
        self.logits.append(logits.clone())
        self.queried.append((positions.sequence, positions.position, positions.canvas.tokens.clone()))
        logits[:, self.token] += self.amount
        return logits


def test_processors_apply_in_order_each_to_what_the_one_before_made(model: Transformer) -> None:
    table = one_end(1.0)
    first, second = Noting(9, 20.0), Noting(8, 30.0)
    state = start(Scripted.like(model, table, mask_id=MASK), [[1], [1, 2]], 4, steps=4)
    state.logits_processors = (first, second)
    steps = play(state)
    assert state.canvas.tokens[0, 1:5].tolist() == state.canvas.tokens[1, 2:].tolist() == [8] * 4
    for step, before, after in zip(steps, first.logits, second.logits, strict=True):
        assert step.predictions is not None
        assert before.dtype == torch.float32
        assert before.equal(step.predictions.logits)
        assert (after - before)[:, 9].eq(20).all()
        assert after[:, :9].equal(before[:, :9])
    for step, (sequence, position, tokens) in zip(steps, first.queried, strict=True):
        assert step.predictions is not None
        width = tokens.shape[1]
        assert (sequence * width + position).equal(step.predictions.flat)
        assert tokens.view(-1)[step.predictions.flat].eq(MASK).all(), "the canvas as it was before the step"


def test_no_processors_is_the_model_s_own_argmax(model: Transformer) -> None:
    """The way without a copy, in one pass where the kernels are built; it and the way of processors agree."""
    asked = list[int]()

    class Counting(LogitOps):
        def argmax_with_logprob(self, logits: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
            asked.append(len(logits))
            return PLAIN_LOGIT_OPS.argmax_with_logprob(logits, mask_id)

    @dataclass
    class Quick(Scripted):
        logit_ops: LogitOps = field(default_factory=Counting)

    table = torch.randn(9, VOCAB, generator=torch.Generator().manual_seed(0))
    quick = Quick.like(model, table, mask_id=MASK)
    plain, processed = start(quick, [[1]], 8), start(quick, [[1]], 8)
    expected = play(plain)
    assert len(asked) == len(expected)
    processed.logits_processors = (Noting(8, 0.0),)
    for step, other in zip(play(processed), expected, strict=True):
        assert step.predictions is not None
        assert other.predictions is not None
        assert step.predictions.token.equal(other.predictions.token)
        assert step.predictions.confidence.equal(other.predictions.confidence)
    assert len(asked) == len(expected)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_the_model_are_left_alone(temperature: float, dtype: torch.dtype, model: Transformer) -> None:
    table = one_end(1.0).to(dtype)
    scripted = Scripted.like(model, table, mask_id=MASK)
    state = start(scripted, [[1]], 8, temperature=temperature)
    state.logits_processors = (Noting(9, 20.0),)
    for step in play(state):
        assert step.predictions is not None
        assert step.predictions.raw.dtype == dtype
        assert step.predictions.raw.equal(table[step.predictions.flat])
        assert step.predictions.token.eq(9).all()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_decoders_see_what_the_model_said(temperature: float, model: Transformer) -> None:
    """Neither logits nor confidences show the penalty; they are those of the token that it let through."""
    table = one_end(1.0)
    scripted = Scripted.like(model, table, mask_id=MASK)
    state = start(scripted, [[1]], 8, temperature=temperature)
    state.logits_processors = (EndOfTextControl(torch.tensor([EOS]), torch.tensor([4.0]), torch.tensor([3])),)
    seen: list[Predictions] = [tick.predictions for tick in play(state) if tick.predictions is not None]
    for read in seen:
        assert read.logits.equal(table[read.flat])
        exact = table[read.flat].double().log_softmax(1).gather(1, read.token[:, None]).squeeze(1)
        torch.testing.assert_close(read.confidence.double(), exact, atol=1e-6, rtol=1e-6)
    assert not any(read.token[read.flat < 3].eq(EOS).any() for read in seen)


@pytest.mark.parametrize("decoder", ["maskgit-plus", "entropy", "topk-margin", "confidence", "threshold", "factor"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_filter_that_leaves_only_the_end_hinders_nothing(
    decoder: str, temperature: float, model: Transformer
) -> None:
    """Where top_k=1 keeps the barred end alone, the token chosen has no probability among those kept: it is fixed all
    the same, at the latest with the last step."""
    lm = dkv.DiffusionLM(Scripted.like(model, one_end(9.0)), None, audit=True)
    assert tokens(lm, min_tokens=8, top_k=1, decoder=decoder, temperature=temperature, seed=3) == [7] * 8


@pytest.mark.parametrize("cache", POLICIES)
def test_nothing_asked_is_nothing_changed(cache: str, lm: dkv.DiffusionLM) -> None:
    """A request without options beside one with them: its tokens are those of a run without logits processors."""
    plain, charged = (
        lm.request([5, 6], gen_length=8, seed=2, cache=cache),
        lm.request([5, 6], gen_length=8, cache=cache, min_tokens=8),
    )
    engine = dkv.Engine(lm)
    first, second = engine.add(plain), engine.add(charged)
    results = finished(engine)
    assert same(results[first], alone(lm, plain))
    assert same(results[second], alone(lm, charged))
    assert not set(results[second].token_ids) & set(ENDS)


def test_company_changes_nothing(lm: dkv.DiffusionLM) -> None:
    rng = random.Random(0)
    requests = [
        mixed_request(lm, rng, n, eos_penalty=rng.choice([0.0, 3.0]), min_tokens=rng.choice([0, 5, 8]))
        for n in range(24)
    ]
    engine = dkv.Engine(lm, active=7)
    tickets = {engine.add(request): request for request in requests}
    for ticket, result in finished(engine).items():
        assert same(result, alone(lm, tickets[ticket]))
        assert not set(result.token_ids[: tickets[ticket].settings.min_tokens]) & set(ENDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eos_penalty": -1}, r"eos_penalty=-1 must not be negative"),
        ({"eos_penalty": float("nan")}, "eos_penalty=nan must"),
        ({"eos_penalty": "much"}, "eos_penalty='much' must"),
        ({"min_tokens": -1}, "min_tokens=-1 must be a whole number from 0 to gen_length=8"),
        ({"min_tokens": 9}, "min_tokens=9 must be"),
        ({"min_tokens": 1.0}, r"min_tokens=1\.0 must be"),
        ({"min_tokens": True}, "min_tokens=True must be"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str, bare_lm: dkv.DiffusionLM) -> None:
    with pytest.raises(dkv.SettingError, match=message):
        bare_lm.generate([[1, 2]], gen_length=8, **arguments)
