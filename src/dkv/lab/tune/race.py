"""Successive halving under a budget: the fastest half of what may still pass goes on, with twice the examples.

Source: Jamieson and Talwalkar, arXiv 1502.07943, with feasibility before speed: a setting whose loss is beyond doubt
above the budget is out for good, one whose loss only looks too large stands behind those whose does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dkv.lab.eval.questions import Setting
from dkv.lab.tune.budget import Budget, Loss

__all__ = ["Trial", "ordered", "race", "rungs"]


@dataclass(frozen=True)
class Trial:
    """A setting on some examples. cost: of a generated token, in rows through the network; seconds: of processor time
    for one, which is told but decides nothing, so that a rerun decides alike."""

    setting: Setting
    loss: Loss
    cost: float
    seconds: float


def rungs(least: int, count: int) -> list[int]:
    """Examples of each round: doubled from `least` up to `count`."""
    rounds = [min(least, count)]
    while rounds[-1] < count:
        rounds.append(min(2 * rounds[-1], count))
    return rounds


def ordered(trials: Sequence[Trial], budget: Budget) -> list[Trial]:
    """Those that are not out, the most promising first: within the budget by what was seen, then by cost."""
    alive = [trial for trial in trials if budget.lower(trial.loss) <= budget.limit]
    return sorted(alive, key=lambda t: (budget.estimate(t.loss) > budget.limit, t.cost))


def race(
    settings: Sequence[Setting],
    budget: Budget,
    rounds: Sequence[int],
    try_out: Callable[[Sequence[Setting], int], list[Trial]],
    finalists: int,
) -> list[Trial]:
    """The last round's trials, the most promising first, at most `finalists` of them. try_out: settings on the first so
    many examples."""
    left, trials = list(settings), list[Trial]()
    for number, examples in enumerate(rounds, 1):
        trials = ordered(try_out(left, examples), budget)
        keep = max(finalists, -(-len(settings) // 2**number))
        trials = trials[:keep]
        left = [trial.setting for trial in trials]
    return trials[:finalists]
