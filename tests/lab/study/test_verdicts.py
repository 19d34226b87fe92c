"""Verdicts follow intervals, not differences."""

from __future__ import annotations

import math

import pytest
import torch

from dkv.lab.eval.statistics import Difference
from dkv.lab.study.verdicts import Mean, all_of, bootstrap, gained, kept


@pytest.mark.parametrize(
    ("difference", "answers"),
    [
        (Difference(both=400, gained=0, lost=0, neither=0), (True, False)),  # within a point either way
        (Difference(both=20, gained=0, lost=0, neither=0), (None, None)),  # equal, but only twenty
        (Difference(both=100, gained=0, lost=100, neither=0), (False, False)),
        (Difference(both=100, gained=100, lost=0, neither=0), (True, True)),
        (Difference(both=90, gained=5, lost=5, neither=0), (None, None)),
        (Difference(both=170, gained=0, lost=6, neither=24), (None, False)),  # -3, from about -6 to -1
    ],
)
def test_three_answers(difference: Difference, answers: tuple[bool | None, bool | None]) -> None:
    assert (kept(difference), gained(difference)) == answers


def test_the_margin_decides() -> None:
    difference = Difference(both=170, gained=0, lost=6, neither=24)
    low, high = difference.interval
    assert -0.10 < low < -0.02 < high < 0
    assert kept(difference, margin=0.10) is True
    assert kept(difference, margin=0.001) is (False if high < -0.001 else None)


def test_all_of() -> None:
    assert all_of([True, True]) is True
    assert all_of([True, None]) is None
    assert all_of([None, False, True]) is False


def test_means_have_intervals_from_twenty_values_on() -> None:
    few = Mean.of([0.5] * 19)
    assert few.interval == (-math.inf, math.inf)
    assert kept(few) is None
    assert str(few) == "+0.500 (n=19: too few for an interval)"
    many = Mean.of([-1.0, 1.0] * 32)  # deviation of the sample: sqrt(64 / 63)
    half = 1.959963984540054 * math.sqrt(64 / 63) / 8
    assert many.interval == pytest.approx((-half, half))
    assert str(many) == f"+0.000 [{-half:+.3f}, {half:+.3f}], n=64"


def mean(samples: torch.Tensor) -> torch.Tensor:
    return samples.mean(1)


def test_values_that_agree_leave_no_doubt() -> None:
    assert bootstrap(torch.full((5,), 0.5), mean) == pytest.approx((0.5, 0.5, 0.5))


def test_one_prompt_says_nothing_of_others() -> None:
    assert bootstrap(torch.tensor([0.5]), mean) == (0.5, -math.inf, math.inf)


def test_the_interval_is_about_two_standard_errors_and_always_the_same() -> None:
    values = torch.randn(200, generator=torch.Generator().manual_seed(1))
    value, low, high = bootstrap(values, mean)
    error = float(values.std()) / 200**0.5
    assert low == pytest.approx(value - 1.96 * error, abs=0.4 * error)
    assert high == pytest.approx(value + 1.96 * error, abs=0.4 * error)
    assert bootstrap(values, mean) == (value, low, high)
