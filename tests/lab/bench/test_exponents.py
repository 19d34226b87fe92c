"""Which rows an exponent is fitted to."""

from __future__ import annotations

import pytest

from dkv.lab.bench.exponents import fit_exponent, growths
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


def test_a_power_is_found_exactly() -> None:
    lengths = [16, 32, 100, 640]
    found = fit_exponent(lengths, [3e-6 * n**2.5 for n in lengths])
    assert found is not None
    assert found.value == pytest.approx(2.5)
    assert found.error == pytest.approx(0, abs=1e-9)
    assert found.points == 4


def test_noise_shows_in_the_error() -> None:
    found = fit_exponent([1, 2, 4], [1.0, 2.0 * 1.2, 4.0])
    assert found is not None
    assert found.value == pytest.approx(1.0)
    # residuals of log2 cost: -a, 2a, -a with a = log2(1.2) / 3, spread 2, one degree of freedom
    assert found.error == pytest.approx((6 * (0.263034 / 3) ** 2 / 2) ** 0.5, abs=1e-4)


def test_two_points_have_no_error_and_one_has_no_line() -> None:
    two = fit_exponent([10, 20], [1.0, 8.0])
    assert two is not None
    assert two.value == pytest.approx(3.0)
    assert two.error is None
    assert fit_exponent([10, 10], [1.0, 2.0]) is None
    assert fit_exponent([10], [1.0]) is None
