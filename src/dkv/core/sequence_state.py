"""The per-sequence tensors of a running batch: what changes from step to step, and joins and leaves with a sequence.

A new one is declared here, with the value that stands at padding, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.canvas import NEVER, Canvas, gathered, joined, per_position, per_sequence
from dkv.errors import AuditError

__all__ = ["SequenceState"]


@dataclass
class SequenceState:
    """Where B sequences of at most T positions stand. Its tensors are replaced from step to step, and never written in
    place (but `unconditional_hidden`), so a `snapshot` costs nothing."""

    canvas: Canvas
    """Tokens, and when each was committed; prompts, lengths and seeds."""
    order: Tensor = field(metadata=per_position(NEVER))
    """[B, T] int64, as in `Step`."""
    last_confidence: Tensor = field(metadata=per_position(-torch.inf))
    """[B, T] float32, as in `Step`."""
    just_committed: Tensor = field(metadata=per_position(False))
    """[B, T] bool, as in `Step`."""
    computed_at: Tensor = field(metadata=per_position(NEVER))
    """[B, T] int64: value of num_forwards when the slot was computed; NEVER before."""
    num_forwards: Tensor = field(metadata=per_sequence())
    """[B] forwards of this sequence so far."""
    block_step: Tensor = field(metadata=per_sequence())
    """[B] step within the active block."""
    block: Tensor = field(metadata=per_sequence())
    """[B] number of the active block."""
    done: Tensor = field(metadata=per_sequence())
    """[B] bool: finished."""
    broken: Tensor = field(metadata=per_sequence())
    """[B] bool: logits that were not finite have been read, so nothing that follows means anything."""
    decoder_state: Tensor | None = field(default=None, metadata=per_position(0.0))
    """[B, T, K] float32, as in `Step`; None for a decoder that keeps none."""
    unconditional_hidden: Tensor | None = field(default=None, metadata=per_position(0.0, scratch=1))
    """[B, T + 1, C] output of the last layer at the last step at which the sequence's unconditional row ran; the last
    slot is scratch. None where no unconditional row has skipped a step."""

    @classmethod
    def new(cls, canvas: Canvas, order: Tensor) -> SequenceState:
        """The state of sequences that have not begun. order: the decoder's `commit_order` [B, T]."""
        zero, grid = torch.zeros_like(canvas.prompt), canvas.tokens
        return cls(
            canvas=canvas,
            order=order,
            last_confidence=torch.full_like(grid, -torch.inf, dtype=torch.float32),
            just_committed=torch.zeros_like(grid, dtype=torch.bool),
            computed_at=torch.full_like(grid, NEVER),
            num_forwards=zero,
            block_step=zero,
            block=zero,
            done=zero.bool(),
            broken=zero.bool(),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """B and T."""
        batch, width = self.canvas.tokens.shape
        return int(batch), int(width)

    def snapshot(self) -> SequenceState:
        """The same tensors in an object that does not move on."""
        return replace(self, canvas=copy(self.canvas))

    def gather(self, rows: Sequence[int], width: int) -> SequenceState:
        """Some of the rows, in that order, cut or padded to `width` positions. What is cut must be padding; an
        unconditional row must come right after the row that it repeats."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.num_forwards.device)
        return replace(self, canvas=self.canvas.gather(index, width), **gathered(self, index, width))

    def cat(self, others: Sequence[SequenceState], width: int) -> SequenceState:
        """These rows and then the others', at `width` positions."""
        every = [self, *others]
        canvas = self.canvas.cat([other.canvas for other in others], width)
        return replace(self, canvas=canvas, **joined(every, [len(one.num_forwards) for one in every], width))

    def resize_decoder_state(self, size: int) -> None:
        """Keep `size` numbers of each position: as many as the decoders at hand ask for."""
        if not size:
            self.decoder_state = None
        elif self.decoder_state is None:
            self.decoder_state = self.last_confidence.new_zeros(*self.shape, size)
        else:
            self.decoder_state = F.pad(self.decoder_state, (0, size - self.decoder_state.shape[2]))

    @property
    def computed(self) -> Tensor:
        """[B, T] slots that were computed since their sequence joined."""
        return self.computed_at != NEVER

    def mark_computed(self, rows: Tensor) -> None:
        """Record that the rows [B, T] are computed by the forward that comes now."""
        self.computed_at = torch.where(rows, self.num_forwards[:, None], self.computed_at)

    def audit(self, readable: Tensor) -> None:
        """Check the reads of the forward that comes now. Raises AuditError naming the first sequence that is not done
        and is about to attend to a readable [B, T] slot that was never computed."""
        bad = (readable & ~self.computed & ~self.done[:, None]).nonzero()
        if len(bad):
            row, slot = bad[0].tolist()
            raise AuditError(f"sequence {row} would read slot {slot}, which was never computed since it joined")
