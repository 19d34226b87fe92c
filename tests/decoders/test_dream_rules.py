"""Dream's rules: the schedule of the published sampler, what each rule ranks by, draws that company cannot change."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations, permutations

import pytest
import torch
from torch import Tensor

from dkv.core.loop import advance
from dkv.core.policy import Step
from dkv.decoders import make_decoder
from dkv.decoders.dream_rules import Entropy, Origin, share
from dkv.errors import SpecError
from dkv.models import Transformer
from tests.support.runs import Scripted, play, positions, start, start_and_play


def step_of(model: Transformer, steps: int) -> Step:
    """The first step of one sequence."""
    return start_and_play(model, [[1]], 1, steps=steps)[1][0].step


@pytest.mark.parametrize("eps", [1e-3, 0.02])
def test_counts_are_those_of_the_published_line(eps: float, model: Transformer) -> None:
    """Of torch.linspace in float32, whose rounding decides how many tokens a step fixes."""
    first = step_of(model, 1)
    for steps in (*range(1, 130), 255, 256, 512, 1000):
        line = torch.linspace(1, eps, steps + 1)
        index, count = torch.arange(steps), torch.full((steps,), steps)
        got, told = share(replace(first, block_step=index, block_steps=count), eps), 1 - line[1:] / line[:-1]
        torch.testing.assert_close(got[:-1], told[:-1], atol=1e-6, rtol=0)
        assert float(got[-1]) == 1.0
        open_positions = torch.arange(1.0, 300.0)[:, None]
        assert (open_positions * got[:-1]).long().equal((open_positions * told[:-1]).long())


def test_as_many_steps_as_tokens_start_with_none(model: Transformer) -> None:
    _, ticks = start_and_play(model, [[1, 2]], 6, decoder="entropy")
    assert [len(positions(tick.committed)[0]) for tick in ticks] == [0, 1, 1, 1, 1, 2]


def scripted(model: Transformer, rows: list[list[float]]) -> Scripted:
    """A model that gives row p the logits log(rows[p]); the mask is the last token."""
    table = torch.tensor(rows).log()
    return Scripted.like(model, table, mask_id=table.shape[1] - 1, eos_ids=(0,))


# Of tokens 0..3 and the mask. The likeliest, the surest by margin, and the least disordered are three different rows.
ROWS = [[0.2] * 5, [0.5, 0.45, 0.02, 0.02, 0.01], [0.46, 0.14, 0.14, 0.13, 0.13], [0.49, 0.2, 0.2, 0.1, 0.01]]


@pytest.mark.parametrize(("rule", "first"), [("maskgit-plus", 1), ("topk-margin", 2), ("entropy", 1)])
def test_what_each_rule_ranks_by(rule: str, first: int, model: Transformer) -> None:
    _, ticks = start_and_play(scripted(model, ROWS), [[3]], 3, decoder=rule, steps=2)
    assert positions(ticks[0].committed)[0] == [first]


def test_confidences_are_those_of_the_filtered_distribution(model: Transformer) -> None:
    """With top_k=2 row 2 is 0.46 : 0.14, the surest of all."""
    _, ticks = start_and_play(scripted(model, ROWS), [[3]], 3, decoder="maskgit-plus", steps=2, top_k=2)
    assert positions(ticks[0].committed)[0] == [2]
    _, ticks = start_and_play(scripted(model, ROWS), [[3]], 3, decoder="entropy", steps=2, top_p=0.4)
    assert positions(ticks[0].committed)[0] == [1]  # one token is left everywhere: a tie, lowest first


def test_surer_than_float32_can_say(model: Transformer) -> None:
    """Probabilities that round to 1 are still told apart."""
    table = torch.zeros(4, 5)
    table[:, 1] = torch.tensor([30.0, 30.0, 32.0, 31.0])
    sharp = Scripted.like(model, table, mask_id=4, eos_ids=(0,))
    for rule in ("maskgit-plus", "topk-margin", "entropy"):
        _, ticks = start_and_play(sharp, [[3]], 3, decoder=rule, steps=2)
        assert positions(ticks[0].committed)[0] == [2]


def test_a_temperature_draws_the_order(model: Transformer) -> None:
    """By score without replacement: the highest is likely, not certain; the same for the same seed, alone or not."""

    def order(seeds: list[int], decoder: str) -> list[list[list[int]]]:
        state = start(model, [[1, 2]] * len(seeds), 6, decoder=decoder, seeds=seeds)
        return [positions(tick.committed) for tick in play(state)]

    seeds = list(range(12))
    drawn = order(seeds, "entropy:alg_temp=2")
    assert len({str([step[n] for step in drawn]) for n in range(12)}) > 3
    assert [[step[5]] for step in drawn] == order([5], "entropy:alg_temp=2")
    plain = order(seeds, "entropy")
    assert all(step == [step[0]] * 12 for step in plain)


def confidences(rule: str, shares: Tensor) -> Tensor:
    """The published confidences of distributions [M, V]."""
    if rule == "maskgit-plus":
        return shares.amax(1)
    if rule == "topk-margin":
        top = shares.topk(2, dim=1).values
        return top[:, 0] - top[:, 1]
    return (shares * shares.log()).sum(1)


def set_probability(weights: list[float], chosen: tuple[int, ...]) -> float:
    """How likely draws without replacement by weights give this set, in any order."""
    total = 0.0
    for order in permutations(chosen):
        likely, left = 1.0, sum(weights)
        for place in order:
            likely, left = likely * weights[place] / left, left - weights[place]
        total += likely
    return total


@pytest.mark.parametrize("rule", ["maskgit-plus", "topk-margin", "entropy"])
@pytest.mark.parametrize("alg_temp", [0.1, 0.5, 2.0])
@pytest.mark.parametrize(("sure", "count"), [([0.809, 0.572, 0.511, 0.789], 1), ([0.9, 0.8, 0.7, 0.6, 0.5], 2)])
def test_positions_are_drawn_by_the_softmax_of_the_confidence(
    rule: str, alg_temp: float, sure: list[float], count: int, model: Transformer
) -> None:
    """softmax(confidence / alg_temp) without replacement, as published: the first step's set of each of 4,000 seeds."""
    shares = torch.tensor([[0.2] * 5] + [[p, *[(1 - p) * part for part in (0.5, 0.3, 0.15, 0.05)]] for p in sure])
    runs, table = 4000, shares.log()
    still = Scripted.like(model, table, mask_id=4, eos_ids=(1,))
    state = start(still, [[3]] * runs, len(sure), steps=2, decoder=f"{rule}:alg_temp={alg_temp}", seeds=range(runs))
    tick = advance(state)
    assert tick is not None
    drawn = Counter(tuple(p - 1 for p in chosen) for chosen in positions(tick.committed))
    weights = (confidences(rule, shares[1:].double()) / alg_temp).softmax(0).tolist()
    expected = {chosen: runs * set_probability(weights, chosen) for chosen in combinations(range(len(sure)), count)}
    assert set(drawn) <= set(expected)
    # What is expected fewer than five times is counted together, as the test asks for.
    rare = [chosen for chosen, number in expected.items() if number < 5]
    kept = [(drawn[chosen], number) for chosen, number in expected.items() if chosen not in rare]
    kept += [(sum(drawn[c] for c in rare), sum(expected[c] for c in rare))] if rare else []
    deviation = sum((seen - number) ** 2 / max(number, 1.0) for seen, number in kept)
    assert deviation < CHI_SQUARE_999[len(kept) - 1]


CHI_SQUARE_999 = [0.0, 10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32, 26.12, 27.88, 29.59]
"""The 99.9% quantiles of chi-square, by degrees of freedom."""


def test_nearly_certain_tokens_are_drawn_by_what_float32_cannot_say(model: Transformer) -> None:
    """1 - 4e-13 and 1 - 1e-9 are both 1 in float32; a temperature below their difference still tells them apart."""
    table = torch.zeros(4, 5)
    table[:, 1] = torch.tensor([30.0, 22.0, 30.0, 22.0])
    still = Scripted.like(model, table, mask_id=4, eos_ids=(0,))
    state = start(still, [[3]] * 200, 3, steps=2, decoder="maskgit-plus:alg_temp=1e-10", seeds=range(200))
    tick = advance(state)
    assert tick is not None
    assert positions(tick.committed) == [[2]] * 200


def test_a_low_temperature_hardly_differs(model: Transformer) -> None:
    runs = [start_and_play(model, [[1, 2]], 6, decoder=d)[0] for d in ("entropy", "entropy:alg_temp=1e-6")]
    assert runs[0].canvas.committed_at.equal(runs[1].canvas.committed_at)


def test_origin_reads_only_what_it_fixes(model: Transformer) -> None:
    state = start(model, [[1, 2]] * 40, 12, decoder="origin", seeds=list(range(40)))
    ticks = play(state)
    assert not state.canvas.masked.any()
    for tick in ticks:
        assert tick.committed.equal(tick.step.query)
    # Independent draws: on average one of twelve at the first step, and not always one.
    first = ticks[0].committed.sum(1)
    assert 0.5 < float(first.float().mean()) < 1.6
    assert len(set(first.tolist())) > 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("entropy:eps=0", "eps=0.0 must lie in"),
        ("origin:eps=1", "eps=1.0 must lie in"),
        ("entropy:alg_temp=-1", r"alg_temp=-1.0 must lie in \[0, 1e6\]"),
        ("maskgit-plus:alg_temp=2147483647", r"decoder='maskgit-plus': alg_temp=2147483647.0 must lie in \[0, 1e6\]"),
        ("topk-margin:alg_temp=nan", r"alg_temp=nan must lie in \[0, 1e6\]"),
    ],
)
def test_keys_out_of_range_are_refused(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_decoder(spec)


def test_defaults() -> None:
    assert make_decoder("entropy") == Entropy(alg_temp=0.0, eps=1e-3)
    assert make_decoder("origin") == Origin(eps=1e-3)
