"""The random cases: the oracles agree with each other where they must, and the draws hold what they are there for."""

from __future__ import annotations

import pytest
import torch

from tests.support.cases import FAMILIES, MODELS, model_of, random_case, replay_dllm, replay_dream, settled
from tests.support.choosing import dream_choice, dream_shares
from tests.support.dllm_oracle import DllmTrace
from tests.support.network import dream_network, llada_network
from tests.support.oracle import Oracle


def same(one: DllmTrace, other: DllmTrace) -> bool:
    pairs = zip(one.steps, other.steps, strict=True)
    return one.tokens == other.tokens and all(
        a.decoded == b.decoded and torch.allclose(a.forward.read, b.forward.read, atol=1e-9) for a, b in pairs
    )


@pytest.mark.parametrize("seed", range(10))
def test_a_refresh_at_every_step_is_no_cache(seed: int) -> None:
    case = random_case("dream-dkv", seed) | {"refresh": 1}
    none, decode, prefill, pd = (replay_dream(case | {"cache": cache}) for cache in ("none", "decode", "prefill", "pd"))
    assert [t.tokens for t in decode] == [t.tokens for t in none]
    assert [[s.fed for s in t.steps] for t in decode] == [[s.fed for s in t.steps] for t in none]
    assert [t.tokens for t in pd] == [t.tokens for t in prefill]
    assert [[s.fed for s in t.steps] for t in pd] == [[s.fed for s in t.steps] for t in prefill]


@pytest.mark.parametrize("seed", range(10))
def test_the_loops_without_a_cache_agree(seed: int) -> None:
    case = random_case("dream-dllm", seed) | {"dllm": None}
    plain = replay_dream(case | {"cache": "none", "refresh": 1, "shift": "un"})
    for one, other, prompt in zip(plain, replay_dllm(case), case["prompts"], strict=True):
        assert one.tokens[len(prompt) :] == other.tokens
    case = random_case("llada-dllm", seed) | {"dllm": None, "cfg_scale": 0.0}
    oracle = Oracle(*model_of(case))
    for prompt, other in zip(case["prompts"], replay_dllm(case), strict=True):
        trace = oracle.confident(prompt, case["gen"], case["block_length"], case["steps"])
        assert trace.tokens[len(prompt) :] == other.tokens


@pytest.mark.parametrize("family", ["llada-dllm", "dream-dllm"])
@pytest.mark.parametrize("seed", range(5))
def test_dllm_identities(family: str, seed: int) -> None:
    """As described: all fresh is no cache; answers always fresh is every row picked; a count of none reuses."""
    case = random_case(family, seed)
    case["dllm"] = {"kp": 4, "kr": 3, "rho": 0.5, "first_layer_full": seed % 2 == 0}
    for plain, full, kept in zip(
        replay_dllm(case | {"dllm": None}),
        replay_dllm(case, kp=1, kr=1),
        replay_dllm(case, kp=-1, rho=1.0),
        strict=True,
    ):
        assert same(plain, full)
        assert same(plain, kept)
    for often, whole in zip(replay_dllm(case, kr=1), replay_dllm(case, rho=1.0), strict=True):
        assert same(often, whole)
    for nought, above in zip(replay_dllm(case, rho=0.0), replay_dllm(case, rho=1.5), strict=True):
        assert same(nought, above)


# Corners of the choice -----------------------------------------------------------------------------------------------


def test_schedule_of_dream() -> None:
    """As many steps as tokens begin with a step of none; more steps idle; fewer take several."""
    assert dream_shares(16, 16) == [0, *[1] * 14, 2]
    assert sum(dream_shares(5, 20)) == 5
    assert dream_shares(5, 20).count(0) >= 15
    assert dream_shares(12, 1) == [12]
    assert dream_shares(17, 5)[0] == 3
    assert sum(dream_shares(17, 5)) == 17


def test_filters_and_the_mask() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).log()
    # The token that crosses the line stays; top-k then cuts among those that are left.
    assert dream_choice(logits, 3, "maskgit_plus", 0.6, None).confidence == pytest.approx(0.5 / 0.8)
    assert dream_choice(logits, 3, "topk_margin", 0.9, None).confidence == pytest.approx(0.2 / 0.95)
    assert dream_choice(logits, 3, "maskgit_plus", 0.9, 2).confidence == pytest.approx(0.5 / 0.8)
    assert dream_choice(logits, 3, "entropy", None, 1).confidence == pytest.approx(0, abs=1e-9)
    # The mask is likeliest: not chosen, but its share stays in the distribution.
    choice = dream_choice(logits, 0, "maskgit_plus", None, None)
    assert (choice.token, choice.mask_won) == (1, True)
    assert choice.confidence == pytest.approx(0.3)


# The random cases ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_most_random_cases_are_settled(family: str) -> None:
    cases = [random_case(family, seed) for seed in range(24)]
    assert cases == [random_case(family, seed) for seed in range(24)]
    assert sum(settled(case) for case in cases) >= 16


def test_random_cases_cover_the_corners() -> None:
    drawn = {family: [random_case(family, seed) for seed in range(60)] for family in FAMILIES}
    for cases in drawn.values():
        assert any(case["steps"] > case["gen"] for case in cases)
        assert any(case["steps"] < case["gen"] and case["gen"] % case["steps"] for case in cases)
        assert any(len({len(prompt) for prompt in case["prompts"]}) > 1 for case in cases)
        assert {case["model"] for case in cases} <= set(MODELS)
    for cases in (drawn["llada-dllm"], drawn["dream-dllm"]):
        assert {None} < {None if case["dllm"] is None else case["dllm"]["first_layer_full"] for case in cases}
    assert any(case["cfg_scale"] and case["dllm"] and case["dllm"]["cfg_interval"] > 1 for case in drawn["llada-dllm"])
    assert any(case["top_p"] and case["top_k"] for case in drawn["dream-dkv"])
    assert {(case["cache"], case["shift"]) for case in drawn["dream-dkv"]} >= {("pd", "un_right"), ("decode", "un")}


def test_the_cases_build_networks() -> None:
    for name, config in MODELS.items():
        build = llada_network if name.startswith("llada") else dream_network
        network = build(*model_of({"model": name}))
        assert network.mask == config["mask_token_id"]
