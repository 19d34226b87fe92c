"""dKV-Cache: keys and values of a token are cached one step after it was decoded (Ma et al., arXiv 2505.15781).

A decoded token's representation still moves during the step after its decoding, then settles: so it is computed once
more with its real embedding (the delay), then read from its slot until the next refresh. Four policies, one idea; in
all of them m = the masked positions and those fixed in the last `delay` forwards.

Where row p predicts token p + 1 (`shift`: Dream), a row must also stay while its right neighbour is in m, since it
predicts that one. "un_right" computes m and the left neighbours of m. "un" computes the left neighbours alone, as the
program first had it: a row is then read from its slot once its successor is settled, even with the keys and values of
its mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.canvas import NEVER, lowest
from dkv.core.policy import Plan, Step, rows_predicting
from dkv.core.values import as_index, shown
from dkv.errors import SpecError

__all__ = ["Decode", "Greedy", "Prefill", "PrefillAndDecode", "expected", "live_rows", "require", "unsettled"]

_SHIFTS = ("un", "un_right")
_UNREAD = 1e30
"""The doubt about a position that was never read: more than about any other, less than infinite."""


def unsettled(step: Step, delay: int) -> Tensor:
    """m [B, T]: masked, or fixed at most `delay` forwards ago."""
    return step.canvas.live & (step.canvas.committed_at >= (step.num_forwards - delay).clamp(min=0)[:, None])


def live_rows(step: Step, m: Tensor, shift: str) -> Tensor:
    """[B, T] the rows that cannot be read from their slots yet: m, or what m needs where rows predict their right
    neighbour (the complement of the program's set S)."""
    if not step.shift:
        return m
    left = F.pad(m[:, 1:], (0, 1))
    last = step.canvas.position == step.canvas.length[:, None] - 1
    if shift == "un":  # the last row predicts nothing; the program drops it once its first step's set has passed
        return left | (last & (step.num_forwards <= 1)[:, None])
    return m | left | (last & F.pad(m[:, :-1], (1, 0)))


def region(step: Step) -> Tensor:
    """[B, T] the response, and with a shift the last prompt row, which predicts its first token."""
    canvas = step.canvas
    return canvas.response | (canvas.position == canvas.prompt[:, None] - 1) if step.shift else canvas.response


def begins(step: Step) -> Tensor:
    """[B, 1] whether the prompt is due: at the first forward of a block (LLaDA's loop drops its cache there) or, with a
    shift, of the sequence (Dream's loop has no blocks)."""
    return ((step.num_forwards if step.shift else step.block_step) == 0)[:, None]


def due(step: Step, every: int) -> Tensor:
    """[B, 1] whether the step within the block is a multiple of `every`."""
    return (step.block_step % every == 0)[:, None]


def expected(step: Step) -> tuple[Tensor, Tensor, Tensor]:
    """The positions [B, T] that are decoded now, a key [B, T] by which they come (the lowest first), and which
    sequences' decoders [B] told so themselves; for the others they are predicted."""
    known, doubt = step.order < NEVER, (-step.last_confidence).clamp(max=_UNREAD)
    key = torch.where(step.query, torch.where(known, step.order.float(), doubt), torch.inf)
    wanted = step.query.sum(1)
    # A decoder that wants less than what is open has chosen already.
    told = (known | ~step.query).all(1) | (wanted < step.open.sum(1))
    number = torch.where(told, wanted, step.num_transfer_tokens)
    return lowest(key, number) & step.query, key, told


def require(name: str, key: str, value: int, least: int) -> None:
    """Refuse a key that is not a whole number of at least `least`. Raises SpecError."""
    number = as_index(value)
    if number is None or not least <= number < 1 << 31:
        raise SpecError(
            f"cache={name!r}: {key}={shown(value)} must be a whole number of at least {least} (and below 2**31)"
        )


def require_shift(name: str, shift: str) -> None:
    """Raises SpecError."""
    if shift not in _SHIFTS:
        raise SpecError(f"cache={name!r}: shift={shown(shift)} is unknown; known: {', '.join(_SHIFTS)}")


@dataclass(frozen=True)
class Decode:
    """dKV-Cache-Decode. Recomputes the positions that are still masked or were decoded in the last step, and everything
    every `refresh` steps.

    rows = live at warm-up and at every `refresh`-th step of the block, else m (see `shift`). delay 1 is the paper's; 0
    and 2 are its ablation. warmup: full forwards at the start of each block; None = 2 on LLaDA, where the published
    program spends a second one only because its first stores nothing, and 1 on Dream.
    """

    name: ClassVar[str] = "dkv-decode"
    refresh: int = 8
    delay: int = 1
    warmup: int | None = None
    shift: str = "un_right"

    def __post_init__(self) -> None:
        for key, least in (("refresh", 1), ("delay", 0)):
            require(self.name, key, getattr(self, key), least)
        if self.warmup is not None:
            require(self.name, "warmup", self.warmup, 1)
        require_shift(self.name, self.shift)

    def plan(self, step: Step) -> Plan:
        """Refresh, or compute what has not settled."""
        warmup = 2 - step.shift if self.warmup is None else self.warmup
        full = due(step, self.refresh) | (step.block_step < warmup)[:, None]
        return Plan((full & step.canvas.live) | live_rows(step, unsettled(step, self.delay), self.shift))


@dataclass(frozen=True)
class Greedy:
    """dKV-Cache-Greedy. Recomputes only the positions being decoded, those just decoded, and `window` masked positions
    near them; everything every `refresh` steps.

    rows = live at every `refresh`-th step, else next, fresh, and `window` masked rows near each of the next: the cost
    of a step no longer grows with the length. next: the positions decoded now. With a decoder that knows its order
    (`random`) these are what it wants, as published (also with `origin`). With any other they are predicted: the
    schedule's number of positions that were read with the highest confidence when they were last read. Then only what
    is computed is read, so that nothing is committed from a stale row; at a refresh everything is.

    The window of a position c is walked c-1, c+1, c-2, c+2, ... over masked positions that no earlier one (in the
    order of decoding) has taken.
    """

    name: ClassVar[str] = "dkv-greedy"
    refresh: int = 2
    window: int = 4

    def __post_init__(self) -> None:
        for key, least in (("refresh", 1), ("window", 0)):
            require(self.name, key, getattr(self, key), least)

    def plan(self, step: Step) -> Plan:
        """Refresh, or compute what is being decoded, what just was, and the window."""
        soon, key, told = expected(step)
        full = due(step, self.refresh)
        rows = self._window(step, soon | rows_predicting(soon, step.shift) | step.just_committed, soon, key)
        return Plan((full & step.canvas.live) | rows, query=full | told[:, None] | rows)

    def _window(self, step: Step, rows: Tensor, soon: Tensor, key: Tensor) -> Tensor:
        """rows [B, T] and the windows of `soon` [B, T], taken in the order of `key` [B, T]."""
        if not self.window:
            return rows
        position, free = step.canvas.position, step.masked & ~rows
        order = torch.where(soon, key, torch.inf).sort(dim=1, stable=True)
        # Each turn takes `window` rows, so that after so many there is none left to take.
        turns = torch.minimum(soon.sum(1), (free.sum(1) + self.window - 1) // self.window)
        for turn in range(int(turns.max())):
            centre, real = order.indices[:, turn], order.values[:, turn] < torch.inf
            # Doubled distance, less one on the left: the order in which the walk comes by.
            apart = position - centre[:, None]
            walk = 2 * apart.abs() - (apart < 0).long()
            near = torch.where(free & real[:, None], walk, NEVER)
            taken = lowest(near, torch.full_like(centre, self.window)) & (near < NEVER)
            rows, free = rows | taken, free & ~taken
        return rows


@dataclass(frozen=True)
class Prefill:
    """dKV-Cache-Prefill. Computes the prompt once per block (and every `refresh` steps, if that is not 0), and the
    whole response at every step.

    rows = live at the first forward (and every `refresh`-th step), else the response, with a shift also the last prompt
    row.
    """

    name: ClassVar[str] = "dkv-prefill"
    refresh: int = 0

    def __post_init__(self) -> None:
        require(self.name, "refresh", self.refresh, 0)

    def plan(self, step: Step) -> Plan:
        """Keep the prompt's slots, compute the rest."""
        full = begins(step) | due(step, self.refresh) if self.refresh else begins(step)
        return Plan((full & step.canvas.live) | region(step))


@dataclass(frozen=True)
class PrefillAndDecode:
    """dKV-Cache-PD. Computes the prompt once per block, as dkv-prefill does; recomputes of the response what dkv-decode
    does, and the whole response every `refresh` steps.

    rows = live at the first forward; the response (with a shift and the last prompt row) at every `refresh`-th step;
    else Decode's rows there.
    """

    name: ClassVar[str] = "dkv-pd"
    refresh: int = 4
    shift: str = "un_right"

    def __post_init__(self) -> None:
        require(self.name, "refresh", self.refresh, 1)
        require_shift(self.name, self.shift)

    def plan(self, step: Step) -> Plan:
        """Refresh the response only."""
        rows = due(step, self.refresh) | live_rows(step, unsettled(step, 1), self.shift)
        return Plan((begins(step) & step.canvas.live) | (rows & region(step)))
