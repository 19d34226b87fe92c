"""The oracles against everything recorded of the published programs.

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

from tests.support.dllm_oracle import Dllm, DllmOracle, DllmTrace
from tests.support.dream_oracle import DreamOracle
from tests.support.network import dream_network, llada_network
from tests.support.oracle import Oracle, Trace

HOME = Path(__file__).parent
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
