"""The likelihood estimator against an exhaustive sum over a float64 network of its own, and what must not change it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dkv.errors import PromptError, SettingError
from dkv.lab.eval.likelihood import Likelihood, Pair, masked_log_probability, maskings
from dkv.models import Transformer, load_model
from tests.support.network import Network, dream_network, llada_network

Make = Callable[..., Network]
TOY = Pair((5, 9, 2, 7), (11, 3, 8))


def network_of(directory: Path, make: Make) -> Network:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return make(config, load_file(directory / "model.safetensors"))


@pytest.fixture(params=["llada", "dream"])
def both(request: pytest.FixtureRequest, reference: Path) -> tuple[Transformer, Network]:
    """The engine's model, and the plain one that shares no code with it."""
    directory = reference / "dkv" / str(request.param)
    network = network_of(directory, {"llada": llada_network, "dream": dream_network}[str(request.param)])
    return load_model(directory, torch.device("cpu"), torch.float32), network


def conditional(network: Network, shift: int, pair: Pair, masked: tuple[int, ...]) -> float:
    """Sum of the log probabilities of the masked tokens, one sequence at a time in float64."""
    places = [len(pair.prompt) + place for place in masked]
    tokens = [network.mask if p in places else t for p, t in enumerate((*pair.prompt, *pair.response))]
    logits, _ = network.forward(tokens, range(len(tokens)), [{} for _ in range(network.layers)])
    whole = (*pair.prompt, *pair.response)
    return sum(float(logits[max(p - shift, 0)].log_softmax(0)[whole[p]]) for p in places)


def exhaustive(network: Network, shift: int, pair: Pair) -> float:
    """The expectation of the estimator, written out: l uniform, places uniform, weight L / l."""
    length, total = len(pair.response), 0.0
    for count in range(1, length + 1):
        ways = list(combinations(range(length), count))
        mean = sum(conditional(network, shift, pair, places) for places in ways) / len(ways)
        total += length / count * mean / length
    return total


def test_three_tokens_agree_with_the_exhaustive_sum(both: tuple[Transformer, Network]) -> None:
    model, network = both
    expected = exhaustive(network, model.config.shift, TOY)
    assert Likelihood(model, samples=7).of([TOY])[0] == pytest.approx(expected, abs=2e-5)


def test_sampling_agrees_with_the_exhaustive_sum(both: tuple[Transformer, Network]) -> None:
    model, network = both
    pair = Pair(TOY.prompt, (11, 3, 8, 30))
    every = [(places, conditional(network, model.config.shift, pair, places)) for places, _ in maskings(pair, 15, 0)]
    expected = exhaustive(network, model.config.shift, pair)
    squares = sum((4 / len(m) * v - expected) ** 2 / (4 * math.comb(4, len(m))) for m, v in every)
    runs = 8
    error = math.sqrt(squares / (14 * runs))
    found = [Likelihood(model, samples=14, seed=seed).of([pair])[0] for seed in range(runs)]
    assert len(set(found)) == runs
    assert abs(sum(found) / runs - expected) < 3.5 * error
    assert error < abs(expected) / 20  # so that the line above can fail


def test_chain_of_single_tokens(both: tuple[Transformer, Network]) -> None:
    """With one masked token the sum is that token's conditional probability."""
    model, network = both
    cases = [(TOY, (place,)) for place in range(3)] + [(Pair((), (4, 6)), (0, 1))]
    found = masked_log_probability(model, cases)
    expected = [conditional(network, model.config.shift, pair, masked) for pair, masked in cases]
    assert found == pytest.approx(expected, abs=2e-5)


def test_company_and_batch_size_change_nothing(model: Transformer) -> None:
    pairs = [Pair(tuple(range(n)), tuple(range(20, 23 + n))) for n in (1, 9, 4)]
    alone = [Likelihood(model, samples=9, seed=3, batch_size=1).of([pair])[0] for pair in pairs]
    together = Likelihood(model, samples=9, seed=3, batch_size=16).of(pairs)
    assert together == pytest.approx(alone, abs=1e-5)
    assert Likelihood(model, samples=9, seed=4).of(pairs) != pytest.approx(alone, abs=1e-3)


def test_maskings_are_keyed_and_weighted() -> None:
    pair = Pair((1, 2), tuple(range(10)))
    drawn = list(maskings(pair, 200, seed=1))
    assert drawn == list(maskings(pair, 200, seed=1))
    assert drawn != list(maskings(pair, 200, seed=2))
    assert drawn != list(maskings(Pair((1, 3), pair.response), 200, seed=1))
    assert {len(masked) for masked, _ in drawn} == set(range(1, 11))
    assert all(weight == pytest.approx(10 / len(masked) / 200) for masked, weight in drawn)
    exact = list(maskings(TOY, 7, seed=1))
    assert len(exact) == 7
    assert sum(weight * len(masked) for masked, weight in exact) == pytest.approx(3)


def test_refused(model: Transformer) -> None:
    with pytest.raises(SettingError, match="samples=0 must"):
        Likelihood(model, samples=0)
    with pytest.raises(PromptError, match="response is empty"):
        Likelihood(model).of([Pair((1,), ())])
    with pytest.raises(PromptError, match="exceed the model's context"):
        Likelihood(model).of([Pair((1,) * model.config.context, (2,))])
