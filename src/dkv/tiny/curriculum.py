"""What is trained when: the mix of tasks and of difficulties by progress, easy first, nothing ever dropped (replay).

Copying is learned first (code, conversion, short look-ups), then facts (drill, short lists), then the whole mix.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """Until `end` (share of the whole run): weights of the tasks, and of the levels 0, 1 and 2."""

    end: float
    weights: dict[str, float]
    levels: tuple[float, float, float]


STAGES: tuple[Stage, ...] = (
    Stage(0.08, {"code": 0.25, "convert": 0.20, "lookup": 0.20, "drill": 0.20, "lists": 0.10, "words": 0.05},
          (0.8, 0.2, 0.0)),
    Stage(0.20, {"code": 0.20, "convert": 0.15, "lookup": 0.20, "drill": 0.20, "lists": 0.13, "words": 0.12},
          (0.4, 0.4, 0.2)),
    Stage(0.53, {"code": 0.10, "convert": 0.12, "lookup": 0.20, "drill": 0.22, "lists": 0.16, "words": 0.20},
          (0.45, 0.35, 0.2)),
    Stage(0.75, {"code": 0.12, "convert": 0.12, "lookup": 0.20, "drill": 0.26, "lists": 0.02, "words": 0.28},
          (0.40, 0.35, 0.25)),
    Stage(0.86, {"code": 0.10, "convert": 0.10, "lookup": 0.10, "drill": 0.16, "lists": 0.02, "words": 0.52},
          (0.15, 0.30, 0.55)),
    Stage(1.00, {"code": 0.10, "convert": 0.10, "lookup": 0.08, "drill": 0.10, "lists": 0.02, "words": 0.60},
          (0.05, 0.15, 0.80)),
)  # fmt: skip
"""For a run from nothing."""

CONTINUED: tuple[Stage, ...] = (
    Stage(0.72, {"code": 0.05, "convert": 0.05, "lookup": 0.18, "drill": 0.03, "lists": 0.18, "words": 0.10,
                 "dialogue": 0.08, "spanish": 0.10, "recall": 0.23}, (0.40, 0.30, 0.30)),
    Stage(1.00, {"code": 0.07, "convert": 0.07, "lookup": 0.18, "drill": 0.05, "lists": 0.19, "words": 0.17,
                 "dialogue": 0.09, "spanish": 0.08, "recall": 0.10}, (0.15, 0.25, 0.60)),
)  # fmt: skip
"""For a run that begins with a trained model."""


def stage_at(progress: float, stages: tuple[Stage, ...] = STAGES) -> Stage:
    """The stage of a progress between 0 and 1."""
    return next((stage for stage in stages if progress < stage.end), stages[-1])


def learning_rate(progress: float, step: int, warmup: int = 100, flat: float = 0.5) -> float:
    """The factor on the learning rates: linear warm-up, constant, then linear decay to zero."""
    decay = 1.0 if progress < flat else max(0.0, (1 - progress) / (1 - flat))
    return min(1.0, (step + 1) / warmup) * decay
