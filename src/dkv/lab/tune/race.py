"""What `dkv tune` tries, and the race: successive halving under a budget. The fastest half of what may still pass goes
on, with twice the examples.

Source: Jamieson and Talwalkar, arXiv 1502.07943, with feasibility before speed: a setting whose loss is beyond doubt
above the budget is out for good, one whose loss only looks too large stands behind those whose does not. The settings
are a declared list, so that a rerun tries the same in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dkv.lab.eval.questions import Setting
from dkv.lab.tune.budget import Budget, Loss

__all__ = ["CACHES", "DECODERS", "Trial", "ordered", "race", "rungs", "space"]

CACHES: tuple[str, ...] = (
    "none",
    *(f"dkv-decode:refresh={n}" for n in (2, 4, 8, 16)),
    *(f"dkv-pd:refresh={n}" for n in (4, 8)),
    "dkv-prefill",
    *(f"dllm-cache:kp=50,kr={kr},rho={rho}" for kr in (2, 4, 7) for rho in (0.25, 0.5)),
    "fast-dual",
    "fast-prefix",
    "dkv-greedy:refresh=8",
    *(f"dkv-fill:rows={n}" for n in (16, 24, 40)),
)
"""Every cache, its cheap settings and its careful ones."""

DECODERS: tuple[str, ...] = (
    "confidence",
    "threshold:tau=0.999",
    "threshold:tau=0.99",
    "threshold:tau=0.95",
    "threshold:tau=0.9",
    "entropy-bound:gamma=0.01",
    "entropy-bound:gamma=0.1",
    "credit:tau=0.995",
)
"""One token a step, and several while the model is sure."""


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


def space(
    reference: str,
    caches: tuple[str, ...] = CACHES,
    decoders: tuple[str, ...] = DECODERS,
    block_length: int | None = None,
    gen_length: int | None = None,
) -> list[Setting]:
    """Every cache with every decoder, the reference first: no cache and the decoder `reference` (the family's own),
    which is what answers are compared with. All have the same canvas: with a block_length it grows by so many positions
    up to gen_length, without one it is as long as the task says."""
    first = Setting(reference, "none", block_length=block_length, gen_length=gen_length, grow=block_length is not None)
    every = (replace(first, decoder=decoder, cache=cache) for decoder in (reference, *decoders) for cache in caches)
    return list(dict.fromkeys((first, *every)))
