"""What is trained when: the mix of tasks and of difficulties by progress, easy first, nothing ever dropped (replay).

Copying is learned first (code, conversion, short look-ups), then facts (drill, short lists), then the whole mix.
Recall, pairs looked up by the token before, is what the look-ups, lists and dialogues wait for: without it they do not
begin to be learned within 10 million tokens.
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
    Stage(0.08, {"code": 0.20, "convert": 0.18, "lookup": 0.10, "drill": 0.12, "lists": 0.06, "words": 0.04,
                 "dialogue": 0.05, "spanish": 0.05, "recall": 0.20}, (0.8, 0.2, 0.0)),
    Stage(0.20, {"code": 0.15, "convert": 0.12, "lookup": 0.12, "drill": 0.15, "lists": 0.10, "words": 0.10,
                 "dialogue": 0.06, "spanish": 0.08, "recall": 0.12}, (0.4, 0.4, 0.2)),
    Stage(0.53, {"code": 0.08, "convert": 0.08, "lookup": 0.15, "drill": 0.16, "lists": 0.15, "words": 0.16,
                 "dialogue": 0.07, "spanish": 0.08, "recall": 0.07}, (0.45, 0.35, 0.2)),
    Stage(0.75, {"code": 0.08, "convert": 0.08, "lookup": 0.15, "drill": 0.18, "lists": 0.14, "words": 0.20,
                 "dialogue": 0.07, "spanish": 0.07, "recall": 0.03}, (0.40, 0.35, 0.25)),
    Stage(1.00, {"code": 0.08, "convert": 0.08, "lookup": 0.13, "drill": 0.10, "lists": 0.15, "words": 0.30,
                 "dialogue": 0.07, "spanish": 0.07, "recall": 0.02}, (0.05, 0.20, 0.75)),
)  # fmt: skip
"""For a run from nothing."""

CONTINUED: tuple[Stage, ...] = (
    Stage(0.72, {"code": 0.05, "convert": 0.05, "lookup": 0.18, "drill": 0.03, "lists": 0.18, "words": 0.10,
                 "dialogue": 0.08, "spanish": 0.10, "recall": 0.23}, (0.40, 0.30, 0.30)),
    Stage(1.00, {"code": 0.07, "convert": 0.07, "lookup": 0.18, "drill": 0.05, "lists": 0.19, "words": 0.17,
                 "dialogue": 0.09, "spanish": 0.08, "recall": 0.10}, (0.15, 0.25, 0.60)),
)  # fmt: skip
"""For a run that begins with a model that knows fewer tasks."""

FINISHING: tuple[Stage, ...] = (
    Stage(1.00, {"code": 0.04, "convert": 0.04, "lookup": 0.07, "drill": 0.03, "lists": 0.40, "words": 0.10,
                 "dialogue": 0.16, "spanish": 0.14, "recall": 0.02}, (0.15, 0.25, 0.60)),
)  # fmt: skip
"""For a run that begins with a model that knows the tasks, some of them badly."""

EDITING: tuple[Stage, ...] = (
    Stage(1.00, {"code": 0.03, "convert": 0.03, "lookup": 0.05, "drill": 0.02, "lists": 0.32, "words": 0.10,
                 "dialogue": 0.38, "spanish": 0.06, "recall": 0.01}, (0.10, 0.25, 0.65)),
)  # fmt: skip
"""For a run that begins with a model that still errs in the tasks that edit a list: lists and dialogues."""

POLISHING: tuple[Stage, ...] = (
    Stage(1.00, {"code": 0.04, "convert": 0.02, "lookup": 0.04, "drill": 0.05, "lists": 0.29, "words": 0.34,
                 "dialogue": 0.14, "spanish": 0.07, "recall": 0.01}, (0.05, 0.20, 0.75)),
)  # fmt: skip
"""For a run that begins with a model that knows all tasks, word problems and lists least surely."""

TALKING: tuple[Stage, ...] = (
    Stage(1.00, {"code": 0.04, "convert": 0.03, "lookup": 0.05, "drill": 0.03, "lists": 0.16, "words": 0.15,
                 "dialogue": 0.46, "spanish": 0.07, "recall": 0.01}, (0.05, 0.20, 0.75)),
)  # fmt: skip
"""For a run that begins with a model that knows all tasks, dialogues least surely."""

GRAFTED: tuple[Stage, ...] = (
    Stage(1.00, {"code": 0.10, "convert": 0.10, "lookup": 0.11, "drill": 0.05, "lists": 0.15, "words": 0.26,
                 "dialogue": 0.13, "spanish": 0.08, "recall": 0.02}, (0.15, 0.25, 0.60)),
)  # fmt: skip
"""For a run that begins with a model of another shape, which knew all tasks."""

CURRICULA: dict[str, tuple[Stage, ...]] = {
    "nothing": STAGES,
    "continued": CONTINUED,
    "finishing": FINISHING,
    "editing": EDITING,
    "polishing": POLISHING,
    "talking": TALKING,
    "grafted": GRAFTED,
}
"""By the name that the recipe's command takes."""


def stage_at(progress: float, stages: tuple[Stage, ...] = STAGES) -> Stage:
    """The stage of a progress between 0 and 1."""
    return next((stage for stage in stages if progress < stage.end), stages[-1])


def learning_rate(progress: float, step: int, warmup: int = 100, flat: float = 0.5) -> float:
    """The factor on the learning rates: linear warm-up, constant, then linear decay to zero."""
    decay = 1.0 if progress < flat else max(0.0, (1 - progress) / (1 - flat))
    return min(1.0, (step + 1) / warmup) * decay
