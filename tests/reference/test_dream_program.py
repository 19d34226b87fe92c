"""The published dKV-Cache program on Dream, step by step: tokens, rows, confidences and logits of every case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dkv
from dkv.core.loop import StepOutput
from dkv.models import Transformer, load_model
from tests.support.runs import Watched, play, positions, start

HOME = Path(__file__).parent / "dkv"
CASES: dict[str, dict[str, Any]] = {
    case["name"]: case
    for case in json.loads((HOME / "cases.json").read_text(encoding="utf-8"))["cases"]
    if case["name"].startswith("dream_")
}
LOGITS = load_file(HOME / "logits_h.safetensors")


@pytest.fixture(scope="module")
def network() -> Transformer:
    return load_model(HOME / "dream", torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def published() -> dkv.DiffusionLM:
    return dkv.load(HOME / "dream", device="cpu", dtype="float32", audit=True)


def cache_of(settings: dict[str, Any]) -> str:
    keys = f"refresh={settings.get('cache_steps')},shift={settings.get('shift_type')}"
    specs = {"none": "none", "prefill": "dkv-prefill", "decoded": f"dkv-decode:{keys}", "pd": f"dkv-pd:{keys}"}
    return specs[settings["variant"]]


def test_every_variant_is_recorded() -> None:
    assert {case["settings"]["variant"] for case in CASES.values()} == {"none", "prefill", "decoded", "pd"}
    assert {case["settings"].get("shift_type") for case in CASES.values()} == {None, "un", "un_right"}
    assert len(CASES) == 17


@pytest.mark.parametrize("name", CASES)
def test_case_step_by_step(name: str, network: Transformer) -> None:
    case, batch = CASES[name], len(CASES[name]["prompt"])
    settings = case["settings"]
    watched = Watched(network)
    state = start(
        watched,
        case["prompt"],
        settings["max_new_tokens"],
        steps=settings["steps"],
        cache=cache_of(settings),
        decoder=settings["alg"].replace("_", "-"),
        top_p=settings["top_p"],
        top_k=settings["top_k"],
    )
    ticks = play(state)
    assert state.canvas.tokens.tolist() == case["final"]
    assert [tick.counts for tick in ticks] == [[n] * batch for n in case["n_fed"]]
    for tick, wanted in zip(ticks, case["steps"], strict=True):
        check_step(tick, wanted, state.canvas.tokens)
    for number, (at, logits) in enumerate(watched.seen):
        key = f"{name}.step{number:02}"
        if key in LOGITS:
            torch.testing.assert_close(logits[at.sequence == 0], LOGITS[key], atol=1e-4, rtol=0)


def check_step(tick: StepOutput, wanted: dict[str, Any], final: torch.Tensor) -> None:
    if not wanted["full"]:
        assert positions(tick.rows) == [sorted(row) for row in wanted["fed"]]
    for row, decoded in enumerate(wanted["decoded"]):
        told = dict(zip(decoded, wanted["tokens"][row], strict=True))
        assert positions(tick.committed)[row] == sorted(told)
        assert {p: int(final[row, p]) for p in told} == told


@pytest.mark.parametrize("name", CASES)
def test_case_through_the_public_door(name: str, published: dkv.DiffusionLM) -> None:
    case, settings = CASES[name], CASES[name]["settings"]
    results = published.generate(
        case["prompt"],
        gen_length=settings["max_new_tokens"],
        steps=settings["steps"],
        cache=cache_of(settings),
        stop_at_eos=False,
    )
    for row, result in enumerate(results):
        assert result.prompt_ids + result.token_ids == case["final"][row]
        assert result.stats.rows_computed == sum(case["n_fed"])
