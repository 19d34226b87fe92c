"""Successive halving: who goes on, and that the fastest that stays within the budget is found."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from dkv.lab.eval.questions import Setting
from dkv.lab.tune.budget import Budget, Loss
from dkv.lab.tune.race import Trial, ordered, race, rungs

BUDGET = Budget("changed", 0.1)


def trial(cost: float, changed: int, count: int = 20) -> Trial:
    return Trial(Setting("confidence", f"cost={cost}"), Loss(count, changed, 0, 0), cost, 0.0)


def test_rungs_double() -> None:
    assert rungs(8, 40) == [8, 16, 32, 40]
    assert rungs(8, 8) == [8]
    assert rungs(8, 5) == [5]


def test_what_is_beyond_doubt_too_lossy_is_out() -> None:
    """9 of 20 changed are more than a tenth; 4 of 20 only look so and come last."""
    kept = ordered([trial(1, 9), trial(2, 4), trial(3, 1), trial(4, 0)], BUDGET)
    assert [t.cost for t in kept] == [3, 4, 2]


@given(
    st.lists(st.tuples(st.floats(1, 100), st.sampled_from([0.0, 0.02, 0.3, 0.9])), min_size=2, max_size=40, unique=True)
)
def test_the_cheapest_within_the_budget_wins(shares: list[tuple[float, float]]) -> None:
    """With answers that come out exactly as their shares say."""
    settings = [Setting("confidence", f"c{n}") for n in range(len(shares))]
    asked: list[tuple[int, int]] = []

    def try_out(chosen: Sequence[Setting], count: int) -> list[Trial]:
        asked.append((len(chosen), count))
        known = {s: shares[n] for n, s in enumerate(settings)}
        return [Trial(s, Loss(count, round(count * known[s][1]), 0, 0), known[s][0], 0.0) for s in chosen]

    found = race(settings, BUDGET, rungs(16, 128), try_out, finalists=3)
    within = [cost for cost, share in shares if share <= 0.1]
    assert found == [] or within == [] or found[0].cost == min(within)
    assert bool(within) <= bool(found)
    assert [count for _, count in asked] == [16, 32, 64, 128]
    assert asked[-1][0] <= max(3, len(shares))
    assert all(later <= max(3, -(-len(shares) // 2**n)) for n, (later, _) in enumerate(asked[1:], 1))
