"""Which rows an exponent is fitted to."""

from __future__ import annotations

import pytest

from dkv.lab.bench.exponents import growths
from dkv.lab.bench.grid import AUTOREGRESSIVE
from tests.support.bench_samples import grid_of_rows, row


def test_one_for_each_cache_and_fixed_length() -> None:
    found = growths(grid_of_rows())
    along = {(g.cache, g.fixed): g for g in found if g.along == "gen"}
    assert set(along) == {(cache, prompt) for cache in ("none", "dkv-decode", AUTOREGRESSIVE) for prompt in (8, 16)}
    for (cache, _), growth in along.items():
        power = {"none": 3, "dkv-decode": 2, AUTOREGRESSIVE: 1}[cache]
        assert growth.time is not None
        assert growth.time.value == pytest.approx(power)
        assert growth.work.value == pytest.approx(power)
        assert growth.work.points == 3
    over_prompts = [g for g in found if g.along == "prompt"]
    assert {g.fixed for g in over_prompts} == {16, 32, 64}
    assert all(g.work.value == pytest.approx(0) for g in over_prompts)


def test_a_text_that_ended_early_does_not_count() -> None:
    rows = [row({"forwards": gen if gen < 40 else 5}, gen=gen, steps=gen) for gen in (10, 20, 40)]
    (growth,) = growths(rows)
    assert growth.work.points == 2


def test_without_times_the_work_is_still_fitted() -> None:
    rows = [row({"forwards": gen, "cpu_seconds": [], "flops": gen}, gen=gen, steps=gen) for gen in (10, 20)]
    (growth,) = growths(rows)
    assert growth.time is None
    assert growth.work.value == pytest.approx(1)
