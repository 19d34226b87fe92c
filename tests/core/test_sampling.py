"""From logits to tokens: the mask is never chosen, confidences are exact, filters and noise follow their definitions.

Everything but the noise itself is seen through the loop, with a model whose logits are a table by position.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dkv.core.sampling import (
    LogitOps,
    Predictions,
    Sampling,
    keyed_uniform,
    log_confidence,
    noise_key,
)
from dkv.models import Transformer
from tests.support.runs import Scripted, play, start, start_and_play

VOCAB, MASK = 12, 11


def read(model: Transformer, table: Tensor, **options: object) -> Predictions:
    """What a decoder reads on the first step, at every position but the prompt's one."""
    scripted = Scripted.like(model, table, mask_id=MASK, eos_ids=(0,))
    seed = options.pop("seed", 0)
    _, ticks = start_and_play(scripted, [[1]], len(table) - 1, steps=1, seeds=[seed], **options)
    assert ticks[0].predictions is not None
    return ticks[0].predictions


def noisy(rows: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return torch.randn(rows + 1, VOCAB, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7}, {"temperature": 3.0, "top_k": 2}, {"temperature": 1.0, "top_p": 0.1}]
)
def test_the_mask_is_never_chosen(options: dict[str, float], model: Transformer) -> None:
    table = noisy(200)
    table[:, MASK] = 50.0
    got = read(model, table, **options)
    assert not got.token.eq(MASK).any()
    assert len(set(got.token.tolist())) > 3


def test_a_second_best_token_carries_its_own_probability(model: Transformer) -> None:
    """The mask token is left out of the choice, not of the distribution."""
    table = noisy(20)
    table[:, MASK] = table.amax(1) + 1
    got = read(model, table)
    exact = table[1:].double().log_softmax(1).gather(1, got.token[:, None]).squeeze(1)
    torch.testing.assert_close(got.confidence.double(), exact, atol=1e-6, rtol=1e-6)
    assert got.token.tolist() == table[1:, :MASK].argmax(1).tolist()


@pytest.mark.parametrize("options", [{"temperature": 0.3}, {"temperature": 2.0, "top_k": 3, "top_p": 0.8}])
def test_confidence_comes_from_the_unaltered_distribution(options: dict[str, float], model: Transformer) -> None:
    table = noisy(50)
    got = read(model, table, **options)
    exact = table[1:].double().log_softmax(1).gather(1, got.token[:, None]).squeeze(1)
    torch.testing.assert_close(got.confidence.double(), exact, atol=1e-6, rtol=1e-6)
    assert got.logits.equal(table[1:])


def test_confidence_does_not_saturate(model: Transformer) -> None:
    """A float32 softmax rounds all of these to 1; their order must be that of the float64 probabilities."""
    gaps = torch.tensor([20.0, 30.0, 18.0, 40.0, 25.0, 60.0, 19.0, 80.0])
    table = torch.zeros(9, VOCAB)
    table[1:, 3] = gaps
    got = read(model, table)
    assert table[1:].softmax(1)[:, 3].eq(1.0).sum() >= 6
    doubt = (VOCAB - 1) * (-gaps.double()).exp()
    torch.testing.assert_close(got.confidence.double(), -doubt.log1p(), rtol=1e-5, atol=0)
    assert got.confidence.argsort().tolist() == gaps.argsort().tolist()


def test_saturated_confidences_pick_the_order(model: Transformer) -> None:
    table = torch.zeros(6, VOCAB)
    table[1:, 3] = torch.tensor([30.0, 50.0, 20.0, 60.0, 40.0])
    scripted = Scripted.like(model, table, mask_id=MASK, eos_ids=(0,))
    _, ticks = start_and_play(scripted, [[1]], 5)
    assert [int(tick.committed.nonzero()[0, 1]) for tick in ticks] == [4, 2, 5, 1, 3]


def test_ties_go_to_the_lowest_position_and_the_lowest_id(model: Transformer) -> None:
    table = torch.zeros(6, VOCAB)
    table[:, [4, 7]] = 3.0
    scripted = Scripted.like(model, table, mask_id=MASK, eos_ids=(0,))
    state, ticks = start_and_play(scripted, [[1], [1]], 5, steps=3)
    assert [tick.committed[1].nonzero().flatten().tolist() for tick in ticks] == [[1, 2], [3, 4], [5]]
    assert state.canvas.tokens[:, 1:].eq(4).all()


def naive_support(logits: list[float], temperature: float, top_p: float | None, top_k: int | None) -> set[int]:
    """Which tokens may be drawn, by definition: the fewest best whose mass reaches top_p, then the top_k best."""
    order = sorted((t for t in range(VOCAB) if t != MASK), key=lambda t: (-logits[t], t))
    weights = [math.exp((logits[t] - logits[order[0]]) / temperature) for t in order]
    kept, mass = [], 0.0
    for token, weight in zip(order, weights, strict=True):
        if top_p is None or mass <= top_p:
            kept.append(token)
        mass += weight / sum(weights)
    return set(kept[:top_k])


@pytest.mark.parametrize("top_p", [None, 1e-6, 0.3, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("top_k", [None, 1, 3, 50])
def test_filters_against_their_definition(top_p: float | None, top_k: int | None, model: Transformer) -> None:
    row = noisy(1, seed=4)[1]
    table = row.expand(1501, VOCAB).clone()
    got = read(model, table, temperature=1.3, top_p=top_p, top_k=top_k)
    assert set(got.token.tolist()) == naive_support(row.tolist(), 1.3, top_p, top_k)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_match_the_softmax(temperature: float, model: Transformer) -> None:
    """Chi-square at a fixed seed; 10 degrees of freedom, 0.999 quantile 29.6."""
    row, count = noisy(1, seed=9, scale=1.0)[1], 20000
    got = read(model, row.expand(count + 1, VOCAB).clone(), temperature=temperature, seed=3)
    share = (row[:MASK].double() / temperature).softmax(0)
    seen = torch.bincount(got.token, minlength=VOCAB)[:MASK].double()
    assert float(((seen - count * share) ** 2 / (count * share)).sum()) < 29.6


@pytest.mark.parametrize("temperature", [1e-4, 1e-30, 1e-39, 1e-44, 1e-60])
@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"top_k": 3}])
def test_a_temperature_near_nought_is_the_best_token(
    temperature: float, options: dict[str, float], model: Transformer
) -> None:
    table = noisy(50)
    assert read(model, table, temperature=temperature, **options).token.equal(read(model, table).token)


@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}])
def test_the_hottest_temperature_is_even(options: dict[str, float], model: Transformer) -> None:
    row, count = noisy(1)[1], 5000
    got = read(model, row.expand(count + 1, VOCAB).clone(), temperature=1e6, **options)
    assert torch.bincount(got.token, minlength=VOCAB)[: MASK - 1].min() > (350 if not options else -1)


def test_each_sequence_has_its_own_temperature(model: Transformer) -> None:
    table = noisy(30, scale=0.5)
    scripted = Scripted.like(model, table, mask_id=MASK, eos_ids=(0,))
    both = start(scripted, [[1], [1]], 30, steps=1, temperature=[0.0, 1.5], seeds=[4, 4])
    play(both)
    cold, warm = read(model, table), read(model, table, temperature=1.5, seed=4)
    assert both.canvas.tokens[0, 1:].equal(cold.token)
    assert both.canvas.tokens[1, 1:].equal(warm.token)
    assert not cold.token.equal(warm.token)


SIZES = [(3, 12), (5, 64), (40, 2048), (70, 1000), (1100, 64), (3, 50_000), (2, 192_000)]
"""Rows and vocabulary: few logits and many."""


@pytest.mark.parametrize(("rows", "vocab"), SIZES)
def test_the_first_of_the_greatest_is_chosen(rows: int, vocab: int) -> None:
    logits = torch.randint(-9, 9, (rows, vocab), generator=torch.Generator().manual_seed(0)).float()
    logits[:, 7] = -9.0
    greatest = logits.amax(1, keepdim=True)
    assert LogitOps().unmasked_argmax(logits, 7).token.equal((logits == greatest).int().argmax(1))
    logits[-1, vocab // 2] = torch.nan
    assert log_confidence(logits, LogitOps().unmasked_argmax(logits, 7).token).isnan().nonzero().tolist() == [
        [rows - 1]
    ]


@pytest.mark.parametrize(("rows", "vocab"), SIZES)
@pytest.mark.parametrize("amount", [None, 0.0, 4.0, math.inf])
def test_confidence_is_that_of_a_softmax_whatever_is_barred(rows: int, vocab: int, amount: float | None) -> None:
    """Where the mask token, or a token with a penalty, is the most likely, and where it is not."""
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(1)) * 3
    logits[::2, 7] += 20
    logits[1::3, 2] += 10
    before, allowed = logits.clone(), logits.clone()
    allowed[:, 2] -= amount or 0.0
    chosen = LogitOps().unmasked_argmax(logits if amount is None else allowed, 7).token
    assert logits.equal(before)
    allowed[:, 7] = -torch.inf
    assert chosen.equal(allowed.argmax(1))
    exact = before.double().log_softmax(1).gather(1, chosen[:, None]).squeeze(1)
    torch.testing.assert_close(log_confidence(logits, chosen).double(), exact, atol=2e-5, rtol=2e-6)


@pytest.mark.parametrize(("rows", "vocab"), SIZES)
def test_half_as_wide_logits_are_widened_where_they_are_summed(rows: int, vocab: int) -> None:
    """To the same bits as if they had been wide from the start."""
    logits, ops = (3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(2))).bfloat16(), LogitOps()
    for told, wide in zip(ops.argmax_with_logprob(logits, 7), ops.argmax_with_logprob(logits.float(), 7), strict=True):
        assert told.equal(wide)


def test_noise_depends_on_seed_clock_and_position() -> None:
    seeds, clocks, places = torch.tensor([1, 2, 1, 1]), torch.tensor([0, 0, 1, 0]), torch.tensor([0, 0, 0, 1])
    noise = keyed_uniform(noise_key(seeds, clocks, places), 64)
    for one in range(4):
        for other in range(one):
            assert not noise[one].eq(noise[other]).any()
    assert noise.equal(keyed_uniform(noise_key(seeds, clocks, places), 64))
    assert noise[:, :10].equal(keyed_uniform(noise_key(seeds, clocks, places), 10))


def test_noise_is_uniform() -> None:
    """Chi-square over 100 bins at fixed keys (0.999 quantile 148), range, and independence of neighbours."""
    position = torch.arange(200)
    noise = keyed_uniform(noise_key(torch.full_like(position, 7), torch.zeros_like(position), position), 500)
    assert noise.dtype == torch.float32
    assert float(noise.min()) > 0
    assert float(noise.max()) <= 1
    bins = torch.histc(noise, 100, 0.0, 1.0).double()
    assert float(((bins - 1000) ** 2 / 1000).sum()) < 148
    for a, b in ((noise[:, 1:], noise[:, :-1]), (noise[1:], noise[:-1])):
        correlation = torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1]
        assert abs(float(correlation)) < 0.012


def test_noise_reaches_deep_into_the_tail() -> None:
    """Values near nought keep their precision: the Gumbel noise of rare tokens is not cut off at 2 ** -24."""
    noise = keyed_uniform(noise_key(*(torch.arange(2000) for _ in range(3))), 2000)
    assert float(noise.min()) < 2**-20
    assert len(set(noise[noise < 1e-4].tolist())) > 300


def test_spread_lays_values_on_the_grid() -> None:
    sampling = Sampling(torch.zeros(2), None, None, greedy=True)
    got = Predictions(torch.tensor([1, 5]), (2, 3), torch.tensor([4, 5]), torch.zeros(2), torch.zeros(2, 7), sampling)
    assert got.spread(got.token, -1).tolist() == [[-1, 4, -1], [-1, -1, 5]]
