"""What a step costs: the fit on times made by hand, and the rows of a real run."""

from __future__ import annotations

import pytest

import dkv
from dkv.caches import make_cache
from dkv.lab.doctor.timing import Steps, cost_of, time_steps
from dkv.lab.study.side_by_side import Prompts


def test_the_fit_finds_fixed_and_per_row_cost() -> None:
    """A millisecond a step and ten microseconds a row."""
    rows = [100.0, 20.0, 10.0, 30.0]
    c = cost_of(Steps([100.0] * 4, [0.002] * 4), Steps(rows, [0.001 + 1e-5 * r for r in rows]))
    assert c.fixed == pytest.approx(0.001)
    assert c.per_row == pytest.approx(1e-5)
    assert c.allowed == pytest.approx(100 / 40)
    assert c.speedup == pytest.approx(0.002 / 0.0014)
    assert c.overhead == pytest.approx(1 / 1.4)
    assert c.steps == 8


def test_where_rows_cost_nothing_all_is_fixed() -> None:
    c = cost_of(Steps([100.0] * 2, [0.001] * 2), Steps([10.0, 20.0], [0.002, 0.002]))
    assert c.per_row == 0
    assert c.overhead == pytest.approx(0.75)
    assert c.speedup == pytest.approx(0.5)


def test_rows_are_those_of_the_run(bare_lm: dkv.DiffusionLM) -> None:
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8]]
    done = bare_lm.generate(prompts, gen_length=8, cache="none", seed=0)
    specs = ("none", "dkv-decode", "dllm-cache")
    timed = time_steps(bare_lm, Prompts(prompts, [0, 0], done[0].settings), [make_cache(s) for s in specs])
    for spec, steps in zip(specs, timed, strict=True):
        own = bare_lm.generate(prompts, gen_length=8, cache=spec, seed=0, stop_at_eos=False)
        assert len(steps.seconds) == len(steps.rows) == 8
        assert sum(steps.rows) == pytest.approx(sum(g.stats.rows_computed for g in own))
        assert min(steps.seconds) > 0
