"""dKV-Cache: keys and values of a token are cached one step after it was decoded (Ma et al., arXiv 2505.15781).

A decoded token's representation still moves during the step after its decoding, then settles: so it is computed once
more with its real embedding (the delay), then read from its slot until the next refresh. Four policies, one idea; in
all of them m = the masked positions and those fixed in the last `delay` forwards.

This file covers models that predict in place (shift 0); where row p predicts token p + 1, the rows that a policy leaves
out of its plan but that predict a wanted position are added by the core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dkv.canvas import NEVER, lowest
from dkv.errors import SpecError
from dkv.plan import Plan, Step

__all__ = ["Decode", "Greedy", "Prefill", "PrefillAndDecode"]


def unsettled(step: Step, delay: int) -> Tensor:
    """m [B, T]: masked, or fixed at most `delay` forwards ago."""
    return step.canvas.committed_at >= (step.clock - delay).clamp(min=0)[:, None]


def due(step: Step, every: int) -> Tensor:
    """[B, 1] whether the step within the block is a multiple of `every`; 0 means the block's first forward only."""
    return (step.index % every == 0 if every else step.index == 0)[:, None]


def require(name: str, key: str, value: int, least: int) -> None:
    """Refuse a key that is not a whole number of at least `least`. Raises SpecError."""
    if type(value) is not int or not least <= value < 1 << 31:
        raise SpecError(f"cache={name!r}: {key}={value!r} must be a whole number of at least {least} (and below 2**31)")


@dataclass(frozen=True)
class Decode:
    """dKV-Cache-Decode. rows = live at warm-up and at every `refresh`-th step of the block, else m.

    delay 1 is the paper's; 0 and 2 are its ablation. warmup: full forwards at the start of each block (the published
    program spends 2 on LLaDA, of which the second only exists because the first stores nothing).
    """

    name: ClassVar[str] = "dkv-decode"
    refresh: int = 8
    delay: int = 1
    warmup: int = 2

    def __post_init__(self) -> None:
        for key, least in (("refresh", 1), ("delay", 0), ("warmup", 1)):
            require(self.name, key, getattr(self, key), least)

    def plan(self, step: Step) -> Plan:
        """Refresh, or compute what has not settled."""
        full = due(step, self.refresh) | (step.index < self.warmup)[:, None]
        return Plan((full & step.canvas.live) | unsettled(step, self.delay))


@dataclass(frozen=True)
class Greedy:
    """dKV-Cache-Greedy. rows = live at every `refresh`-th step, else wanted, fresh, and `window` masked rows near each
    wanted one: the cost of a step no longer grows with the length.

    The window of a wanted position c is walked c-1, c+1, c-2, c+2, ... over masked positions that no earlier wanted
    position (in commit order) has taken. Exact with a decoder that knows its order ahead (`random`); a decoder that
    reads every masked position to choose from makes all of them wanted, and leaves little to save.
    """

    name: ClassVar[str] = "dkv-greedy"
    refresh: int = 2
    window: int = 4

    def __post_init__(self) -> None:
        for key, least in (("refresh", 1), ("window", 0)):
            require(self.name, key, getattr(self, key), least)

    def plan(self, step: Step) -> Plan:
        """Refresh, or compute what is being decoded, what just was, and the window."""
        rows = step.readers | step.wanted | step.fresh
        if self.window:
            rows = self._window(step, rows)
        return Plan((due(step, self.refresh) & step.canvas.live) | rows)

    def _window(self, step: Step, rows: Tensor) -> Tensor:
        position, free = step.canvas.position, step.masked & ~rows
        for centre in self._centres(step):
            # Doubled distance, less one on the left: the order in which the walk comes by.
            apart = position - centre[:, None]
            walk = 2 * apart.abs() - (apart < 0).long()
            near = torch.where(free & (centre >= 0)[:, None], walk, NEVER)
            taken = lowest(near, torch.full_like(centre, self.window)) & (near < NEVER)
            rows, free = rows | taken, free & ~taken
        return rows

    def _centres(self, step: Step) -> list[Tensor]:
        """The wanted positions in commit order, one [B] tensor per turn; -1 where a sequence has fewer. Without a known
        order there is no window to draw: the rows around are wanted themselves."""
        key = torch.where(step.wanted, step.rank, NEVER)
        turns = int((key < NEVER).sum(1).max())
        ranks, order = key.sort(dim=1, stable=True)
        return [torch.where(ranks[:, turn] < NEVER, order[:, turn], -1) for turn in range(turns)]


@dataclass(frozen=True)
class Prefill:
    """dKV-Cache-Prefill. rows = live at the block's first forward (and every `refresh`-th step), else the response."""

    name: ClassVar[str] = "dkv-prefill"
    refresh: int = 0

    def __post_init__(self) -> None:
        require(self.name, "refresh", self.refresh, 0)

    def plan(self, step: Step) -> Plan:
        """Keep the prompt's slots, compute the rest."""
        return Plan((due(step, self.refresh) & step.canvas.live) | step.canvas.response)


@dataclass(frozen=True)
class PrefillAndDecode:
    """dKV-Cache-PD: Prefill's prompt and Decode's response. rows = live at the block's first forward; the response at
    every `refresh`-th step; else m. The prompt is not computed again within a block."""

    name: ClassVar[str] = "dkv-pd"
    refresh: int = 4

    def __post_init__(self) -> None:
        require(self.name, "refresh", self.refresh, 1)

    def plan(self, step: Step) -> Plan:
        """Refresh the response only."""
        first = due(step, 0) & step.canvas.live
        again = due(step, self.refresh) & step.canvas.response
        return Plan(first | again | (unsettled(step, 1) & step.canvas.response))
