"""The published dKV-Cache program on LLaDA, step by step: tokens, rows, confidences and logits of every case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dkv
from dkv.core.policy import Decoder
from dkv.decoders import RandomOrder
from dkv.models import Transformer, load_model
from tests.support.runs import Watched, play, positions, start

HOME = Path(__file__).parent / "dkv"
CASES: dict[str, dict[str, Any]] = {
    case["name"]: case
    for case in json.loads((HOME / "cases.json").read_text(encoding="utf-8"))["cases"]
    if case["name"].startswith("llada_")
}
LOGITS = load_file(HOME / "logits_h.safetensors")


@pytest.fixture(scope="module")
def network() -> Transformer:
    return load_model(HOME / "llada", torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def published() -> dkv.DiffusionLM:
    return dkv.load(HOME / "llada", device="cpu", dtype="float32", audit=True)


def cache_of(settings: dict[str, Any]) -> str:
    if settings["variant"] == "vanilla" or not settings["enable_cache"]:
        return "none"
    refresh = settings["cache_reloading_step"]
    if settings["variant"] == "decode":
        return f"dkv-decode:refresh={refresh}"
    return f"dkv-greedy:refresh={refresh},window={settings['window_size']}"


def decoder_of(case: dict[str, Any]) -> Decoder | str:
    return RandomOrder(case["denoising_order"]) if "denoising_order" in case else "confidence"


def test_every_variant_is_recorded() -> None:
    variants = {case["settings"]["variant"] for case in CASES.values()}
    assert variants == {"vanilla", "decode", "greedy"}
    assert len(CASES) == 28


@pytest.mark.parametrize("name", CASES)
def test_case_step_by_step(name: str, network: Transformer) -> None:
    case, batch = CASES[name], len(CASES[name]["prompt"])
    settings = case["settings"]
    state = start(
        network,
        case["prompt"],
        settings["gen_length"],
        settings["block_length"],
        settings["steps"],
        cache=cache_of(settings),
        decoder=decoder_of(case),
    )
    ticks = play(state)
    assert state.canvas.tokens.tolist() == case["final"]
    assert [tick.counts for tick in ticks] == [[n] * batch for n in case["n_fed"]]
    for tick, wanted in zip(ticks, case["steps"], strict=True):
        check_step(tick, wanted, state.canvas.tokens)


def check_step(tick: Any, wanted: dict[str, Any], final: torch.Tensor) -> None:
    batch, width = tick.rows.shape
    assert tick.step.block_step.tolist() == [wanted["i"]] * batch
    assert (tick.counts[0] == width) == wanted["full"]
    if not wanted["full"]:
        assert positions(tick.rows) == [sorted(row) for row in wanted["fed"]]
    confidence = tick.predictions.spread(tick.predictions.confidence, -torch.inf).exp()
    for row in range(batch):
        told = dict(zip(wanted["decoded"][row], wanted["tokens"][row], strict=True))
        assert positions(tick.committed)[row] == sorted(told)
        assert {p: int(final[row, p]) for p in told} == told
        got = confidence[row, wanted["decoded"][row]]
        torch.testing.assert_close(got, torch.tensor(wanted["conf"][row]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [name for name in CASES if f"{name}.step00" in LOGITS])
def test_logits(name: str, network: Transformer) -> None:
    """Of the rows that are read, and of every row that is carried."""
    case, settings = CASES[name], CASES[name]["settings"]
    watched = Watched(network)
    state = start(
        watched,
        case["prompt"],
        settings["gen_length"],
        settings["block_length"],
        settings["steps"],
        cache=cache_of(settings),
        decoder=decoder_of(case),
    )
    ticks = play(state)
    steps = [key for key in sorted(LOGITS) if key.startswith(f"{name}.step")]
    assert len(steps) == len(ticks) == len(watched.seen) == settings["steps"]
    for key, tick, (at, logits) in zip(steps, ticks, watched.seen, strict=True):
        carried = logits[at.sequence == 0]
        torch.testing.assert_close(carried, LOGITS[key], atol=1e-4, rtol=0)
        assert tick.predictions is not None
        fed = positions(tick.rows)[0]
        places = [fed.index(p) for p in tick.predictions.flat.tolist() if p < tick.rows.shape[1]]
        torch.testing.assert_close(tick.predictions.logits[: len(places)], LOGITS[key][places], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_case_through_the_public_door(name: str, published: dkv.DiffusionLM) -> None:
    case, settings = CASES[name], CASES[name]["settings"]
    results = published.generate(
        case["prompt"],
        gen_length=settings["gen_length"],
        block_length=settings["block_length"],
        steps=settings["steps"],
        cache=cache_of(settings),
        decoder=decoder_of(case),
        stop_at_eos=False,
        trace=True,
    )
    for row, result in enumerate(results):
        offset = len(case["prompt"][row])
        assert result.prompt_ids + result.token_ids == case["final"][row]
        assert result.stats.rows_computed == sum(case["n_fed"])
        assert result.stats.forwards == len(case["n_fed"])
        assert result.stats.rows_total == len(case["n_fed"]) * len(case["final"][row])
        assert result.trace == [
            sorted((p - offset, t) for p, t in zip(step["decoded"][row], step["tokens"][row], strict=True))
            for step in case["steps"]
        ]
