"""The oracles against everything recorded of the published programs, and against each other where they must agree.

What passes here is then trusted beyond the recorded cases: tests compare the engine with the oracles on random ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.support.cases import FAMILIES, MODELS, model_of, random_case, replay_dllm, replay_dream, settled
from tests.support.choosing import dream_choice, dream_shares
from tests.support.dllm_oracle import Dllm, DllmOracle, DllmTrace
from tests.support.dream_oracle import DreamOracle
from tests.support.network import Network, dream_network, llada_network
from tests.support.oracle import Oracle, Trace

HOME = Path(__file__).parent / "reference"
DKV: dict[str, dict[str, Any]] = {
    case["name"]: case for case in json.loads((HOME / "dkv" / "cases.json").read_text(encoding="utf-8"))["cases"]
}
LLADA = {name: case for name, case in DKV.items() if name.startswith("llada_")}
DREAM = {name: case for name, case in DKV.items() if name.startswith("dream_")}
DLLM: dict[str, dict[str, Any]] = {
    case["id"]: case for case in json.loads((HOME / "dllm" / "cases.json").read_text(encoding="utf-8"))
}
LOGITS = load_file(HOME / "dkv" / "logits_h.safetensors")
TIE = 1e-5
"""Under this margin a recorded selection is decided by rounding."""


def files(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return config, load_file(directory / "model.safetensors")


@pytest.fixture(scope="module")
def llada() -> Oracle:
    return Oracle(*files(HOME / "dkv" / "llada"))


@pytest.fixture(scope="module")
def dream() -> DreamOracle:
    return DreamOracle(*files(HOME / "dkv" / "dream"))


@pytest.fixture(scope="module")
def dllm() -> dict[str, DllmOracle]:
    builders = {"llada": llada_network, "dream": dream_network}
    return {name: DllmOracle(build(*files(HOME / "dllm" / name))) for name, build in builders.items()}


def test_everything_recorded_is_here() -> None:
    assert (len(LLADA), len(DREAM), len(DLLM)) == (28, 17, 32)


# dKV-Cache -----------------------------------------------------------------------------------------------------------


def replay_llada(oracle: Oracle, case: dict[str, Any], row: int) -> Trace:
    settings, prompt = case["settings"], case["prompt"][row]
    shape = settings["gen_length"], settings["block_length"], settings["steps"]
    refresh = settings["cache_reloading_step"] if settings.get("enable_cache") else None
    if settings["variant"] != "greedy":
        return oracle.confident(prompt, *shape, refresh)
    order = [block[row] for block in case["denoising_order"]]
    return oracle.greedy(prompt, *shape, order, refresh, settings.get("window_size", 0))


@pytest.mark.parametrize("name", LLADA)
def test_llada_case(name: str, llada: Oracle) -> None:
    for row in range(len(LLADA[name]["prompt"])):
        check_dkv(replay_llada(llada, LLADA[name], row), LLADA[name], row, shift=0)


@pytest.mark.parametrize("name", [name for name in LLADA if f"{name}.step00" in LOGITS])
def test_llada_logits(name: str, llada: Oracle) -> None:
    check_logits(name, replay_llada(llada, LLADA[name], 0))


def replay_recorded(oracle: DreamOracle, case: dict[str, Any], row: int) -> Trace:
    settings = case["settings"]
    return oracle.run(
        case["prompt"][row],
        settings["max_new_tokens"],
        settings["steps"],
        rule=settings["alg"],
        cache="decode" if settings["variant"] == "decoded" else settings["variant"],
        refresh=settings.get("cache_steps", 1),
        shift=settings.get("shift_type", "un"),
        top_p=settings["top_p"],
        top_k=settings["top_k"],
        eps=settings["eps"],
    )


@pytest.mark.parametrize("name", DREAM)
def test_dream_case(name: str, dream: DreamOracle) -> None:
    for row in range(len(DREAM[name]["prompt"])):
        check_dkv(replay_recorded(dream, DREAM[name], row), DREAM[name], row, shift=1)


@pytest.mark.parametrize("name", [name for name in DREAM if f"{name}.step00" in LOGITS])
def test_dream_logits(name: str, dream: DreamOracle) -> None:
    check_logits(name, replay_recorded(dream, DREAM[name], 0))


def check_dkv(trace: Trace, case: dict[str, Any], row: int, shift: int) -> None:
    """Rows, tokens and shares of every step; position p is predicted from the row of p - shift."""
    assert trace.margin > TIE
    assert not trace.mask_won
    assert trace.tokens == case["final"][row]
    assert [len(step.fed) for step in trace.steps] == case["n_fed"]
    for step, wanted in zip(trace.steps, case["steps"], strict=True):
        assert step.decoded == dict(zip(wanted["decoded"][row], wanted["tokens"][row], strict=True))
        assert wanted["full"] or step.fed == sorted(wanted["fed"][row])
        # Whatever Dream's rule, the traces hold the probability of the token.
        shares = [float(step.logits[p - shift].softmax(dim=0)[step.decoded[p]]) for p in wanted["decoded"][row]]
        assert shares == pytest.approx(wanted["conf"][row], abs=1e-5)


def check_logits(name: str, trace: Trace) -> None:
    """Of every fed row, before any shift."""
    for index, step in enumerate(trace.steps):
        rows = torch.stack([step.logits[p] for p in step.fed]).float()
        torch.testing.assert_close(rows, LOGITS[f"{name}.step{index:02}"], atol=1e-4, rtol=0)


# dLLM-Cache ----------------------------------------------------------------------------------------------------------


def settings_of(case: dict[str, Any]) -> Dllm | None:
    cache = case["cache"]
    if cache is None:
        return None
    head = case.get("code_version", "head") == "head"
    return Dllm(cache["Kp"], cache["Kr"], cache["rho"], cache["cfg_interval"], first_layer_full=head)


def run_recorded(oracles: dict[str, DllmOracle], family: str, case: dict[str, Any]) -> list[DllmTrace]:
    gen, steps, settings = case["gen_length"], case["steps"], settings_of(case)
    if family == "dream":
        return [oracles["dream"].dream(p, gen, steps, settings, rule=case["alg"]) for p in case["prompt_ids"]]
    scale = case.get("cfg_scale", 0.0)
    return [oracles["llada"].llada(p, gen, case["block_length"], steps, settings, scale) for p in case["prompt_ids"]]


@pytest.mark.parametrize("name", DLLM)
def test_dllm_case(name: str, dllm: dict[str, DllmOracle]) -> None:
    case = DLLM[name]
    traces = run_recorded(dllm, case["model"], case)
    assert [trace.tokens for trace in traces] == case["final_ids"]
    assert not any(trace.mask_won for trace in traces)
    assert min(trace.margin for trace in traces) > TIE
    for index, wanted in enumerate(case["decode"]):
        assert [trace.steps[index].decoded for trace in traces] == [dict(row) for row in wanted]
        check_probe([trace.steps[index].forward.probe for trace in traces], case["probe"][index])
    for trace in traces:
        assert trace.refresh == case.get("refresh", "f" * case["steps"])
        assert trace.refresh_uncond == case.get("refresh_cfg", "f" * case["n_uncond_forward"])
        assert len(trace.refresh) + len(trace.refresh_uncond) == case["n_forward"]
    for row, trace in enumerate(traces):
        check_selections(trace, case, row)


def check_probe(probes: list[list[float]], wanted: list[float]) -> None:
    """The mean is over the batch, the three logits are of its first row."""
    mean = sum(probe[0] for probe in probes) / len(probes)
    assert [mean, *probes[0][1:]] == pytest.approx(wanted, abs=1e-3)


def check_selections(trace: DllmTrace, case: dict[str, Any], row: int) -> None:
    """All but near ties and, of that forward, what lies deeper."""
    recorded, tied = case.get("selected", []), set()
    assert [[s.branch, s.forward, s.layer] for s in trace.selected] == [entry[:3] for entry in recorded]
    for ours, entry, margins in zip(trace.selected, recorded, case.get("selected_margin", []), strict=True):
        margin = margins[row]
        if margin is not None and margin < TIE:
            tied.add((ours.branch, ours.forward))
        if (ours.branch, ours.forward) in tied:
            continue
        assert ours.picked == entry[3][row]
        assert margin is None or ours.margin == pytest.approx(margin, abs=1e-5, rel=0.02)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_dllm_streams(family: str, dllm: dict[str, DllmOracle]) -> None:
    """Every layer's stream and every logit of a whole run."""
    file = HOME / "dllm" / f"{family}_trace.safetensors"
    recorded = load_file(file)
    with safe_open(file, "pt") as handle:
        case = json.loads(handle.metadata()["case"])
    (trace,) = run_recorded(dllm, family, case)
    assert trace.tokens == recorded["final"].tolist()
    for index, step in enumerate(trace.steps):
        answer = recorded["x"][index, case["prompt_len"] :]
        assert all(int(answer[j]) == dllm[family].network.mask for j in step.weighed)
        torch.testing.assert_close(step.forward.logits.float(), recorded["logits"][index], atol=1e-3, rtol=0)
        streams = torch.stack(step.forward.streams).float()
        torch.testing.assert_close(streams, recorded["block_out"][index], atol=2e-3, rtol=1e-4)


# Where two of them must agree ----------------------------------------------------------------------------------------


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
        network: Network = build(*model_of({"model": name}))
        assert network.mask == config["mask_token_id"]
