"""One group: who steps when, whose time is whose, and what is counted."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

import dkv
from dkv.core.loop import StepOutput
from dkv.lab.bench.flops import Work, flops
from dkv.lab.bench.grid import AUTOREGRESSIVE, Cell, settings_of
from dkv.lab.bench.instruments import find_meter
from dkv.lab.bench.measure import interleave, measure_group
from dkv.lab.bench.replay import replay
from dkv.lab.bench.roofline import Rates
from dkv.lab.bench.runners import RunOutcome, runner_of
from dkv.lab.common.lab_prompts import sized_prompts
from tests.support.bench_samples import CELL
from tests.support.powercap import zone

CPU = torch.device("cpu")
RATES = Rates(1e10, 1e10)


@dataclass
class Fake:
    """Takes so many steps, and says so."""

    name: str
    left: int
    log: list[str] = field(default_factory=list)

    def step(self) -> bool:
        self.log.append(self.name)
        self.left -= 1
        return self.left >= 0

    def outcome(self) -> RunOutcome:
        raise NotImplementedError


def test_all_take_turns_and_nobody_is_always_first() -> None:
    log: list[str] = []
    interleave([Fake("a", 3, log), Fake("b", 1, log), Fake("c", 3, log)], None, CPU)
    assert "".join(log) == "abc" + "bca" + "ac" + "ca"


def test_time_and_energy_go_to_who_spent_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0, most=10**9)
    now = [0.0]

    class Slow(Fake):
        def step(self) -> bool:
            now[0] += self.cost
            (tmp_path / "intel-rapl:0" / "energy_uj").write_text(str(int(now[0] * 5e6)))
            return super().step()

        cost = 1.0

    class Slower(Slow):
        cost = 3.0

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.process_time", lambda: now[0] / 2)
    first, second = interleave([Slow("a", 2), Slower("b", 1)], find_meter(tmp_path), CPU)
    # one step more than there are: finding out that there is none is the run's own time
    assert (first.wall, first.cpu, round(first.joules, 6)) == (3.0, 1.5, 15.0)
    assert (second.wall, second.cpu, round(second.joules, 6)) == (6.0, 3.0, 30.0)


def cells(*caches: str, **changes: object) -> list[Cell]:
    small = replace(CELL, prompt=6, gen=8, block=8, steps=8, repeats=2, **changes)  # type: ignore[arg-type]
    return [replace(small, cache=cache) for cache in caches]


def test_a_group(bare_lm: dkv.DiffusionLM) -> None:
    told: list[tuple[str, float]] = []
    group = cells("none", "dkv-decode", "dllm-cache", AUTOREGRESSIVE)
    none, decode, dllm, ar = measure_group(bare_lm, group, RATES, None, lambda *what: told.append(what))
    config = bare_lm.model.config
    for result in (none, decode, dllm, ar):
        assert len(result.seconds) == len(result.cpu_seconds) == len(result.ar_seconds or ()) == 2
        assert min(result.seconds) > 0
        assert result.none_seconds == none.seconds
        assert result.none_flops == none.flops
        assert result.joules is None
        assert (result.ar_seconds, result.ar_tokens) == (ar.seconds, 16)
        assert result.forwards == 8
        assert result.bound_seconds > 0
    assert (none.agreement, ar.agreement) == (1.0, None)
    assert none.rows_computed == none.rows_total == 2 * 8 * 14
    assert decode.rows_computed < decode.rows_total
    for cell, result in zip(group[:3], (none, decode, dllm), strict=True):
        assert result.flops == sum(flops(config, w) for w in replay(config, settings_of(cell), 6, 2))
    assert dllm.cache_bytes > decode.cache_bytes == none.cache_bytes
    assert [what for what, _ in told] == [
        "none, first run", "dkv-decode, first run", "dllm-cache, first run", "autoregressive, first run",
        "repeat 1 of 2", "repeat 2 of 2",
    ]  # fmt: skip
    assert [round(share * 12) for _, share in told] == [0, 1, 2, 3, 4, 8]


def test_its_tokens_are_those_of_generate(lm: dkv.DiffusionLM) -> None:
    (cell,) = cells("dkv-prefill", stop_at_eos=True)
    prompts = sized_prompts(lm, 6, 2, seed=4)
    run = runner_of(lm, cell, prompts)
    while run.step():
        pass
    expected = lm.generate(prompts, gen_length=8, cache="dkv-prefill", decoder="confidence", seed=0)
    outcome = run.outcome()
    assert [g.token_ids for g in outcome.generations] == [g.token_ids for g in expected]
    assert outcome.new_tokens == sum(g.stats.new_tokens for g in expected)
    assert outcome.rows_computed == sum(g.stats.rows_computed for g in expected)


def test_no_tick_is_kept_for_it_holds_the_logits(lm: dkv.DiffusionLM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[weakref.ref[StepOutput]] = []

    def spied(tick: StepOutput, *_: object) -> Work:
        seen.append(weakref.ref(tick))
        return Work((), 0)

    monkeypatch.setattr("dkv.lab.bench.runners.work_of", spied)
    (cell,) = cells("none")
    run = runner_of(lm, cell, sized_prompts(lm, 6, 2, seed=4), counted=True)
    while run.step():
        pass
    gc.collect()
    assert len(seen) == 8
    assert sum(tick() is not None for tick in seen) <= 1


def test_a_timed_run_keeps_no_count(lm: dkv.DiffusionLM) -> None:
    (cell,) = cells("none")
    run = runner_of(lm, cell, sized_prompts(lm, 6, 2, seed=4))
    while run.step():
        pass
    assert run.outcome().works == ()
