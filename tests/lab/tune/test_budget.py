"""Budgets: bounds that hold as often as they say, and the number of examples that would certify one."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkv.errors import SettingError
from dkv.lab.tune.budget import Budget, Loss, upper_share

CHANGED, LOST = Budget("changed", 0.01), Budget("lost", 0.02)


def test_pairs_are_counted() -> None:
    pairs = [
        (("a", True), ("a", True)),
        (("b", False), ("a", True)),
        (("b", True), ("a", True)),
        (("c", True), ("d", False)),
    ]
    loss = Loss.of(pairs)
    assert loss == Loss(count=4, changed=3, lost=1, gained=1)
    assert CHANGED.estimate(loss) == 0.75
    assert LOST.estimate(loss) == 0


@pytest.mark.parametrize(("count", "bound"), [(299, 0.01), (149, 0.0199), (59, 0.0495)])
def test_no_change_at_all_bounds_by_the_rule_of_three(count: int, bound: float) -> None:
    """0 of n: the share at which n examples without one have probability 5%."""
    assert upper_share(0, count) == pytest.approx(1 - 0.05 ** (1 / count))
    assert upper_share(0, count) == pytest.approx(bound, rel=0.01)


@given(hits=st.integers(0, 40), more=st.integers(1, 60))
def test_the_share_bound_is_where_the_binomial_says(hits: int, more: int) -> None:
    count = hits + more
    bound = upper_share(hits, count)
    tail = sum(math.comb(count, k) * bound**k * (1 - bound) ** (count - k) for k in range(hits + 1))
    assert tail == pytest.approx(0.05, rel=1e-6)


@given(lost=st.integers(0, 10), gained=st.integers(0, 10), more=st.integers(0, 200))
def test_bounds_hold_the_estimate_between_them(lost: int, gained: int, more: int) -> None:
    loss = Loss(lost + gained + more + 1, lost + gained, lost, gained)
    for budget in (CHANGED, LOST):
        assert budget.lower(loss) <= budget.estimate(loss) + 1e-9
        assert budget.estimate(loss) <= budget.upper(loss) + 1e-9
        assert budget.upper(loss, 0.01) >= budget.upper(loss) - 1e-9


@pytest.mark.parametrize(("lost", "gained"), [(0.02, 0.0), (0.04, 0.02), (0.15, 0.1)])
def test_the_bound_on_accuracy_is_broken_one_time_in_twenty(lost: float, gained: float) -> None:
    """Simulated: the true loss lies above the bound about 5% of the time, and not much more often."""
    rng, truth, broken = random.Random(0), lost - gained, 0
    for _ in range(1000):
        draws = [rng.random() for _ in range(150)]
        loss = Loss(150, 0, sum(d < lost for d in draws), sum(lost <= d < lost + gained for d in draws))
        broken += LOST.upper(loss) < truth
    assert broken <= 85


def test_the_number_needed_is_the_least_that_certifies() -> None:
    clean = Loss(20, 0, 0, 0)
    needed = CHANGED.needed(clean)
    assert needed == 299
    assert CHANGED.upper(clean.scaled(298)) > 0.01 >= CHANGED.upper(clean.scaled(299))
    assert LOST.needed(Loss(100, 3, 1, 1)) > 100  # type: ignore[operator]
    assert CHANGED.needed(Loss(100, 1, 0, 0)) is None
    assert LOST.needed(Loss(100, 9, 3, 0)) is None


@pytest.mark.parametrize("limit", [0.0, 1.0, -0.1, math.nan])
def test_a_budget_out_of_range_is_refused(limit: float) -> None:
    with pytest.raises(SettingError, match="must lie between 0 and 100 percent"):
        Budget("changed", limit)
