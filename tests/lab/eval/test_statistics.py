"""Intervals and the test against published values and slow, plain computations."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import product

import pytest

from dkv.lab.eval.statistics import Difference, Share, wilson


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    # The last four: Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605),
     (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)  # fmt: skip
def test_wilson(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right, count) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize("gained", range(5))
@pytest.mark.parametrize("lost", range(5))
def test_mcnemar_counts_every_way_that_chance_could_split_the_pairs(gained: int, lost: int) -> None:
    ways = list(product((True, False), repeat=gained + lost))
    fewer = min(gained, lost)
    as_extreme = sum(min(sum(way), len(way) - sum(way)) <= fewer for way in ways)
    assert Difference(7, gained, lost, 2).p == pytest.approx(float(Fraction(as_extreme, len(ways))))


def test_mcnemar_of_many_pairs() -> None:
    assert Difference(0, 0, 2000, 0).p == 0.0
    assert 0.9 < Difference(0, 1000, 1001, 0).p <= 1.0


@pytest.mark.parametrize(
    ("table", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, 2635-2650, method 10.
    [((36, 12, 2, 0), 0.0569, 0.3404), ((0, 12, 2, 36), 0.0569, 0.3404)],
)
def test_paired_interval(table: tuple[int, int, int, int], low: float, high: float) -> None:
    assert Difference(*table).interval == pytest.approx((low, high), abs=6e-5)


def test_paired_interval_without_discordant_pairs_is_no_point() -> None:
    low, high = Difference(54, 0, 0, 0).interval
    assert low < -0.05 < 0.05 < high


def test_paired_interval_turns_with_the_pair() -> None:
    low, high = Difference(30, 9, 4, 7).interval
    assert Difference(30, 4, 9, 7).interval == pytest.approx((-high, -low))


def test_paired_interval_covers() -> None:
    """In 19 of 20 repetitions, give or take what 2,000 of them leave open."""
    rng, inside = random.Random(5), 0
    weights, truth = (0.6, 0.05, 0.15, 0.2), -0.1
    for _ in range(2000):
        drawn = rng.choices(range(4), weights, k=100)
        low, high = Difference(*(drawn.count(kind) for kind in range(4))).interval
        inside += low <= truth <= high
    assert 0.93 < inside / 2000 < 0.98


def test_pairs_are_counted() -> None:
    this, other = [True, True, False, False, False], [True, False, True, True, False]
    found = Difference.of(this, other)
    assert found == Difference(both=1, gained=1, lost=2, neither=1)
    assert (found.count, found.value) == (5, -0.2)
    with pytest.raises(ValueError, match="no pairs"):
        Difference.of([], [])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        Difference.of([True], [])


def test_what_is_printed_has_its_count_and_interval() -> None:
    assert str(Share(390, 400)) == "390/400 = 97.5% [95.5%, 98.6%]"
    assert str(Difference(36, 12, 2, 0)) == "+20.0 [+5.7, +34.0] points, n=50, p=0.013"
    assert not math.isnan(Difference(0, 0, 0, 3).interval[0])
    with pytest.raises(ValueError, match="0 of 0"):
        Share(0, 0)
