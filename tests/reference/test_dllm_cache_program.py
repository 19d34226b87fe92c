"""The published dLLM-Cache program on LLaDA and Dream: tokens, order, refreshes, picks per layer, and logits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import dkv
from dkv.caches import make_cache
from dkv.core.kv_cache import LayerCache
from dkv.core.layer_rules import RotaryPhase, Rules
from dkv.core.loop import State, StepOutput
from dkv.core.packing import PackedRows
from dkv.core.policy import CachePolicy, Plan, Step
from dkv.layers.transformer import TransformerBlock
from dkv.layers.v_verify import Verify
from dkv.models import Transformer, load_model
from tests.support.runs import Watched, play, start

HOME = Path(__file__).parent / "dllm"
CASES: dict[str, dict[str, Any]] = {
    case["id"]: case for case in json.loads((HOME / "cases.json").read_text(encoding="utf-8"))
}
PICKY = [name for name, case in CASES.items() if case.get("selected")]
NEAR_TIE = 1e-5


@pytest.fixture(scope="module")
def networks() -> dict[str, Transformer]:
    return {name: load_model(HOME / name, torch.device("cpu"), torch.float32) for name in ("llada", "dream")}


def spec_of(case: dict[str, Any]) -> str:
    cache = case["cache"]
    if cache is None:
        return "none"
    first = "false" if case.get("code_version") == "pre0706" else "true"
    return (
        f"dllm-cache:kp={cache['Kp']},kr={cache['Kr']},rho={cache['rho']},"
        f"cfg_interval={cache['cfg_interval']},first_layer={first}"
    )


def started(model: Any, case: dict[str, Any], cache: str | CachePolicy) -> State:
    return start(
        model,
        case["prompt_ids"],
        case["gen_length"],
        case["block_length"],
        case["steps"],
        cache=cache,
        decoder=case.get("alg", "confidence"),
        cfg_scale=case.get("cfg_scale", 0.0),
    )


@dataclass(frozen=True, eq=False)
class Spied(Verify):
    """V-verify that notes where the rows sit that it picks."""

    log: list[PackedRows] = field(default_factory=list)

    def __call__(
        self, block: TransformerBlock, x: Tensor, at: PackedRows, turn: RotaryPhase, memory: LayerCache
    ) -> Tensor:
        return super().__call__(cast("TransformerBlock", Logged(block, self.log)), x, at, turn, memory)


@dataclass
class Logged:
    """A block that notes where the rows sit that it is asked to pick."""

    inner: TransformerBlock
    log: list[PackedRows]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def pick(self, x: Tensor, at: PackedRows, memory: LayerCache, similarity: str | None) -> tuple[Tensor, PackedRows]:
        h, picked = self.inner.pick(x, at, memory, similarity)
        self.log.append(picked)
        return h, picked


@dataclass
class Spy:
    """A policy whose rules are spied on, and whose plans are kept."""

    inner: CachePolicy
    plans: list[tuple[Plan, Tensor]] = field(default_factory=list)
    logs: list[list[PackedRows]] = field(default_factory=list)

    def plan(self, step: Step) -> Plan:
        plan = self.inner.plan(step)
        self.plans.append((plan, step.num_forwards.clone()))
        self.logs.append([])
        if not isinstance(plan.rules.rest, Verify):
            return plan
        rest = Spied(plan.rules.rest.similarity, plan.rules.rest.adaptive, self.logs[-1])
        return replace(plan, rules=Rules(None if plan.rules.first is None else rest, rest))


def rows_of(case: dict[str, Any]) -> int:
    """Rows of a sequence: its own, and under guidance the unconditional one after it."""
    return 2 if case.get("cfg_scale") else 1


def letters(case: dict[str, Any], ticks: Sequence[StepOutput], spy: Spy) -> str:
    """Of the first sequence: which regions each forward renewed in full."""
    found = ""
    for plan, _ in spy.plans[: len(ticks)]:
        assert plan.forced is not None
        prompt, response = plan.forced[0, : case["prompt_len"]], plan.forced[0, case["prompt_len"] :]
        found += {(True, True): "f", (False, True): "r", (True, False): "p", (False, False): "a"}[
            bool(prompt.all()), bool(response.all())
        ]
        assert prompt.any() == prompt.all()
        assert response.any() == response.all()
    return found


@pytest.mark.parametrize("name", CASES)
def test_tokens_order_and_refreshes(name: str, networks: dict[str, Transformer]) -> None:
    case = CASES[name]
    first, batch, each = case["prompt_len"], case["batch"], rows_of(case)
    spy = Spy(make_cache(spec_of(case)))
    state = started(networks[case["model"]], case, spy)
    ticks = play(state)
    assert state.canvas.tokens[::each, first:].tolist() == case["final_ids"]
    order = [
        [
            [[p - first, int(state.canvas.tokens[row, p])] for p in tick.committed[row].nonzero().flatten().tolist()]
            for row in range(0, batch * each, each)
        ]
        for tick in ticks
    ]
    assert order == [[sorted(row) for row in step] for step in case["decode"]]
    if case["cache"] is not None:
        assert letters(case, ticks, spy) == case["refresh"]


@pytest.mark.parametrize("name", PICKY)
def test_picks_of_every_layer(name: str, networks: dict[str, Transformer]) -> None:
    """Outside near ties, after which the deeper layers of that step are free to differ."""
    case = CASES[name]
    batch, first = case["batch"], case["prompt_len"]
    spy = Spy(make_cache(spec_of(case)))
    play(started(networks[case["model"]], case, spy))
    skipped: set[tuple[str, int, int]] = set()
    checked = 0
    for (branch, step, layer, picked), margins in zip(case["selected"], case["selected_margin"], strict=True):
        log = spy.logs[step - 1]
        inner = log[layer - (1 if case["code_version"] == "head" else 0)]
        for row in range(batch):
            sequence = row * rows_of(case) + (branch == "cfg")
            if len(picked[row]) < case["gen_length"] and margins[row] < NEAR_TIE:
                skipped.add((branch, step, row))
            if (branch, step, row) not in skipped:
                own = inner.slot[(inner.sequence == sequence) & (inner.slot < inner.width)]
                assert sorted(p - first for p in own.tolist() if p >= first) == picked[row]
                checked += 1
    assert checked > len(case["selected"]) * batch // 2


def response_logits(case: dict[str, Any], watched: Watched, step: int, shift: int) -> Tensor:
    """Logits [B, G, V] of the responses, before guidance."""
    at, logits = watched.seen[step]
    responses = []
    for sequence in range(0, case["batch"] * rows_of(case), rows_of(case)):
        slots = at.slot[at.sequence == sequence].tolist()
        first = case["prompt_len"] - shift
        places = [slots.index(p) for p in range(first, first + case["gen_length"])]
        responses.append(logits[at.sequence == sequence][places])
    return torch.stack(responses)


@pytest.mark.parametrize("name", CASES)
def test_probes(name: str, networks: dict[str, Transformer]) -> None:
    """Mean size of the responses' logits, and token 0's at three positions of the first, of each step."""
    case = CASES[name]
    watched = Watched(networks[case["model"]])
    play(started(watched, case, spec_of(case)))
    for step, probe in enumerate(case["probe"]):
        logits = response_logits(case, watched, step, networks[case["model"]].config.shift)
        zeros = (float(logits[0, p, 0]) for p in (0, case["gen_length"] // 2, -1))
        torch.testing.assert_close(
            torch.tensor([float(logits.abs().mean()), *zeros]), torch.tensor(probe), atol=1e-3, rtol=0
        )


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_trace(family: str, networks: dict[str, Transformer]) -> None:
    """One run in full: the canvas before each step, and the logits of every carried row."""
    path = HOME / f"{family}_trace.safetensors"
    with safe_open(path, framework="pt") as file:
        case = json.loads(file.metadata()["case"])
    told, watched = load_file(path), Watched(networks[family])
    state = started(watched, case, spec_of(case))
    before = state.canvas.tokens.clone()
    ticks = play(state)
    for step, tick in enumerate(ticks):
        assert before[0].tolist() == told["x"][step].tolist()
        before = torch.where(tick.committed, state.canvas.tokens, before)
        at, logits = watched.seen[step]
        # Rows that are not carried have no stream here; the program computes their logits and reads them nowhere. A
        # frozen row differs too: above layer 0 it only predicts.
        mine = at.slot >= case["prompt_len"]
        theirs = told["logits"][step][at.slot[mine]]
        torch.testing.assert_close(logits[mine], theirs, atol=1e-4, rtol=1e-4)
    assert state.canvas.tokens[0, case["prompt_len"] :].tolist() == told["final"].tolist()


@pytest.mark.parametrize("name", CASES)
def test_case_through_the_public_door(name: str) -> None:
    case = CASES[name]
    lm = dkv.load(HOME / case["model"], device="cpu", dtype="float32", audit=True)
    results = lm.generate(
        case["prompt_ids"],
        gen_length=case["gen_length"],
        block_length=case["block_length"],
        steps=case["steps"],
        cfg_scale=case["cfg_scale"],
        cache=spec_of(case),
        decoder=case.get("alg"),
        stop_at_eos=False,
    )
    assert [result.token_ids for result in results] == case["final_ids"]
    assert all(result.stats.forwards == case["steps"] for result in results)
