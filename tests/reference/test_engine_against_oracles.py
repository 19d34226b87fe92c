"""The engine against the slow second implementations, on random configurations that no recorded trace has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from dkv.models import Transformer, load_model
from tests.support.cases import FAMILIES, MODELS, model_of, random_case, replay_dllm, replay_dream, settled
from tests.support.checkpoints import write_checkpoint
from tests.support.runs import play, positions, start

SEEDS = range(40)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Transformer]:
    home = tmp_path_factory.mktemp("networks")
    loaded = {}
    for name in MODELS:
        directory = write_checkpoint(home / name, *model_of({"model": name}))
        loaded[name] = load_model(Path(directory), torch.device("cpu"), torch.float32)
    return loaded


def spec_of(case: Mapping[str, Any]) -> str:
    if case["family"] == "dream-dkv":
        keys = f"refresh={case['refresh']},shift={case['shift']}"
        specs = {"none": "none", "prefill": "dkv-prefill", "decode": f"dkv-decode:{keys}", "pd": f"dkv-pd:{keys}"}
        return specs[case["cache"]]
    if case["dllm"] is None:
        return "none"
    settings = case["dllm"]
    return (
        f"dllm-cache:kp={settings['kp']},kr={settings['kr']},rho={settings['rho']},cfg_interval={settings['cfg_interval']},"
        f"first_layer={str(settings['first_layer_full']).lower()}"
    )


@dataclass(frozen=True)
class Expected:
    """Of one sequence: its answer, and per step the positions decoded and (for dKV-Cache) computed."""

    tokens: list[int]
    decoded: list[list[int]]
    fed: list[list[int]] | None


def replayed(case: Mapping[str, Any]) -> list[Expected]:
    """Every sequence of a case as the oracles play it."""
    if case["family"] == "dream-dkv":
        return [
            Expected(t.tokens[-case["gen"] :], [sorted(s.decoded) for s in t.steps], [sorted(s.fed) for s in t.steps])
            for t in replay_dream(case)
        ]
    return [
        Expected(trace.tokens, [sorted(len(prompt) + p for p in step.decoded) for step in trace.steps], None)
        for prompt, trace in zip(case["prompts"], replay_dllm(case), strict=True)
    ]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_random_case(family: str, seed: int, networks: dict[str, Transformer]) -> None:
    """Ragged batches at once here, a row at a time there: the same tokens in the same order, the same rows."""
    case = random_case(family, seed)
    if not settled(case):
        pytest.skip("a near tie, which float32 may rightly decide otherwise")
    state = start(
        networks[case["model"]],
        case["prompts"],
        case["gen"],
        case.get("block_length"),
        case["steps"],
        cache=spec_of(case),
        decoder=case.get("rule", "confidence").replace("_", "-"),
        top_p=case.get("top_p"),
        top_k=case.get("top_k"),
        cfg_scale=case.get("cfg_scale", 0.0),
    )
    ticks = play(state)
    each = 2 if case.get("cfg_scale") else 1  # with its unconditional row after it
    for number, (prompt, played) in enumerate(zip(case["prompts"], replayed(case), strict=True)):
        row = number * each
        tokens = state.canvas.tokens[row, len(prompt) : len(prompt) + case["gen"]].tolist()
        assert tokens == played.tokens
        assert [positions(tick.committed)[row] for tick in ticks] == played.decoded
        if played.fed is not None:
            assert [positions(tick.rows)[row] for tick in ticks] == played.fed
