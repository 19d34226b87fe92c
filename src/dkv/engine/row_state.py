"""What of a running batch moves from step to step, as rows that can be added and taken out.

All else that a State holds follows from the requests in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.canvas import GIVEN, NEVER, Canvas
from dkv.core.loop import State

__all__ = ["Rows"]


@dataclass(frozen=True)
class Rows:
    """The tensors of some sequences that change from step to step: fields as in Canvas, KVCache and State."""

    tokens: Tensor
    committed_at: Tensor
    order: Tensor
    last_confidence: Tensor
    just_committed: Tensor
    computed_at: Tensor
    num_forwards: Tensor
    block_step: Tensor
    block: Tensor
    decoder_state: Tensor | None = None
    kept: Tensor | None = None
    """[B, T, C] what guidance keeps of unconditional rows that skip steps."""

    @classmethod
    def new(cls, canvas: Canvas, rank: Tensor) -> Rows:
        """Those of sequences that have not begun, and the decoder's rank [B, T] of their positions."""
        zero, grid = torch.zeros_like(canvas.prompt), canvas.tokens
        return cls(
            tokens=grid,
            committed_at=canvas.committed_at,
            order=rank,
            last_confidence=torch.full_like(grid, -torch.inf, dtype=torch.float32),
            just_committed=torch.zeros_like(grid, dtype=torch.bool),
            computed_at=torch.full_like(grid, NEVER),
            num_forwards=zero,
            block_step=zero,
            block=zero,
        )

    @classmethod
    def of(cls, state: State) -> Rows:
        """Those of a state as it stands."""
        canvas, kept = state.canvas, None if state.guidance is None else state.guidance.kept
        batch, width = canvas.tokens.shape
        return cls(
            tokens=canvas.tokens,
            committed_at=canvas.committed_at,
            order=state.rank,
            last_confidence=state.score,
            just_committed=state.fresh,
            computed_at=state.memory.computed_at,
            num_forwards=state.clock,
            block_step=state.index,
            block=state.block,
            decoder_state=state.notes,
            kept=None if kept is None else kept.view(batch, width + 1, -1)[:, :-1],
        )

    def put_into(self, state: State) -> None:
        """Set a new state, of the same sequences, to where these stand."""
        state.memory.computed_at = self.computed_at
        state.clock, state.index, state.block = self.num_forwards, self.block_step, self.block
        state.rank, state.score, state.fresh = self.order, self.last_confidence, self.just_committed
        if state.notes is not None and self.decoder_state is not None:  # as deep as the decoders at hand ask for
            state.notes = F.pad(self.decoder_state, (0, state.notes.shape[2] - self.decoder_state.shape[2]))
        if state.guidance is not None and self.kept is not None:
            state.guidance.kept = F.pad(self.kept, (0, 0, 0, 1)).flatten(0, 1)
        state.reach()

    def take(self, rows: Sequence[int], width: int) -> Rows:
        """Some of the rows, in that order, cut or padded to `width` positions. What is cut must be padding."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.num_forwards.device)

        def grid(x: Tensor, fill: float) -> Tensor:
            return _fit(x[index], width, fill)

        return Rows(
            tokens=grid(self.tokens, 0),
            committed_at=grid(self.committed_at, GIVEN),
            order=grid(self.order, NEVER),
            last_confidence=grid(self.last_confidence, -torch.inf),
            just_committed=grid(self.just_committed, False),
            computed_at=grid(self.computed_at, NEVER),
            num_forwards=self.num_forwards[index],
            block_step=self.block_step[index],
            block=self.block[index],
            decoder_state=None if self.decoder_state is None else grid(self.decoder_state, 0),
            kept=None if self.kept is None else grid(self.kept, 0),
        )

    def join(self, others: Sequence[Rows], width: int) -> Rows:
        """These and then the others', at `width` positions."""
        parts = [one.take(range(len(one.num_forwards)), width) for one in (self, *others)]
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS}
        counts = [len(part.num_forwards) for part in parts]
        notes, kept = ([getattr(part, name) for part in parts] for name in ("decoder_state", "kept"))
        return Rows(**tensors, decoder_state=_stack(notes, counts), kept=_stack(kept, counts))


_TENSORS = (
    "tokens",
    "committed_at",
    "order",
    "last_confidence",
    "just_committed",
    "computed_at",
    "num_forwards",
    "block_step",
    "block",
)


def _stack(parts: Sequence[Tensor | None], counts: Sequence[int]) -> Tensor | None:
    """Parts [count, T, C] one after another, with zeros for those that are None; None if all are."""
    like = next((part for part in parts if part is not None), None)
    if like is None:
        return None
    return torch.cat([
        like.new_zeros((count, *like.shape[1:])) if part is None else part
        for part, count in zip(parts, counts, strict=True)
    ])  # fmt: skip


def _fit(x: Tensor, width: int, fill: float) -> Tensor:
    """x [B, T, ...] cut or padded to `width` positions."""
    missing = width - x.shape[1]
    if missing <= 0:
        return x[:, :width].contiguous()
    return torch.cat((x, x.new_full((x.shape[0], missing, *x.shape[2:]), fill)), dim=1)
