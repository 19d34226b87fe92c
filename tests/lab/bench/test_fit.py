"""Exponents of powers that are known."""

from __future__ import annotations

import pytest

from dkv.lab.bench.fit import fit_exponent


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
