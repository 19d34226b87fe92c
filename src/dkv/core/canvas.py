"""The canvas, the token grid that is being denoised, and whatever else a batch keeps of each sequence between steps.

Nothing here knows of models, caches or decoders. Rows are sequences, right-padded; position p of a sequence is slot p
of every buffer, for ever, so positions always start at 0 and padding never sits between tokens.

Fields of tensors with a row for each sequence say in their metadata what stands at padding (`_per_position`,
`_per_sequence`); from that rows are selected, widened, cut and concatenated (`_gathered`, `_joined`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import Field, dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.errors import AuditError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["GIVEN", "NEVER", "Canvas", "SequenceState", "lay_out", "lowest"]

GIVEN = -1
"""`committed_at` of a token that was there from the start (and of padding)."""

NEVER = 1 << 62
"""`committed_at` of a masked position: later than any clock."""


_ROWS = "rows"
"""Key of the metadata of fields that have a row for each sequence."""


def _per_sequence() -> Mapping[str, Any]:
    """Metadata of a field [B, ...]."""
    return {_ROWS: None}


def _per_position(fill: float, scratch: int = 0) -> Mapping[str, Any]:
    """Metadata of a field [B, T + scratch, ...] with `fill` at padding. What its scratch slots hold is not kept."""
    return {_ROWS: (fill, scratch)}


@dataclass
class Canvas:
    """A batch of sequences under denoising. B sequences, T positions (the longest sequence).

    Which positions are masked is read from `committed_at`, never by comparing tokens with the mask id: a user's text
    may contain it, and gaps may lie inside given text.
    """

    tokens: Tensor = field(metadata=_per_position(0))
    """[B, T] int64."""
    prompt: Tensor = field(metadata=_per_sequence())
    """[B] length of the prompt."""
    length: Tensor = field(metadata=_per_sequence())
    """[B] length of prompt, response and what follows it."""
    committed_at: Tensor = field(metadata=_per_position(GIVEN))
    """[B, T] value of num_forwards of the forward that committed the token; GIVEN; NEVER while masked."""
    seed: Tensor = field(metadata=_per_sequence())
    """[B] each request's own seed."""
    request: Tensor = field(metadata=_per_sequence())
    """[B] the caller's number of each sequence."""
    position: Tensor
    """[T] 0, 1, 2, ..."""
    live: Tensor = field(metadata=_per_position(False))
    """[B, T] bool: positions that exist."""
    response: Tensor = field(metadata=_per_position(False))
    """[B, T] bool: positions between the prompt and what follows the response; some of them may be given."""
    unconditional_of: Tensor | None = None
    """[B] for guidance: the row whose response this row repeats after a masked prompt, -1 for an ordinary row; None
    where no row is unconditional."""

    @cached_property
    def is_unconditional(self) -> Tensor | None:
        """[B] which rows are unconditional; None where no row is."""
        return None if self.unconditional_of is None else self.unconditional_of >= 0

    def mirror(self, x: Tensor) -> Tensor:
        """x [B, ...] with the entry of each unconditional row taken from the row that it repeats."""
        return x if self._mirrored is None else x[self._mirrored]

    @cached_property
    def _mirrored(self) -> Tensor | None:
        """[B] the row itself, or the one that it repeats; None where no row is unconditional. A step asks several
        times."""
        if self.unconditional_of is None:
            return None
        own = torch.arange(len(self.unconditional_of), device=self.unconditional_of.device)
        return torch.where(self.unconditional_of >= 0, self.unconditional_of, own)

    def gather(self, rows: Tensor, width: int) -> Canvas:
        """Some of the rows [N], in that order, cut or padded to `width` positions. What is cut must be padding; an
        unconditional row must come right after the row that it repeats."""
        repeats = None if self.unconditional_of is None else self.unconditional_of.index_select(0, rows)
        return self._with(_gathered(self, rows, width), repeats, width)

    def cat(self, others: Sequence[Canvas], width: int) -> Canvas:
        """These rows and then the others', at `width` positions; unconditional rows as in `gather`."""
        every = [self, *others]
        known = [one.unconditional_of for one in every if one.unconditional_of is not None]
        repeats = torch.cat(known) if known else None
        return self._with(_joined(every, [len(one.prompt) for one in every], width), repeats, width)

    def _with(self, rows: dict[str, Any], repeats: Tensor | None, width: int) -> Canvas:
        """Other rows. repeats [N]: of each, at least 0 where it is unconditional."""
        position = torch.arange(width, device=self.position.device)
        if repeats is not None:
            repeats = torch.where(repeats >= 0, torch.arange(len(repeats), device=repeats.device) - 1, -1)
        return replace(self, position=position, unconditional_of=repeats, **rows)

    @property
    def masked(self) -> Tensor:
        """[B, T] positions that exist and are still to be fixed."""
        return self.unfixed & self.live

    @property
    def unfixed(self) -> Tensor:
        """[B, T] positions that are to be fixed some time: `masked`, and those that a growing canvas will have."""
        return self.committed_at == NEVER


@dataclass
class SequenceState:
    """Where B sequences of at most T positions stand: all that changes from step to step, and joins and leaves with a
    sequence. A new tensor is declared here, with the value that stands at padding, and nowhere else.

    Tensors are replaced from step to step, and never written in place (but `unconditional_hidden`), so that a
    `snapshot` costs nothing."""

    canvas: Canvas
    """Tokens, and when each was committed; prompts, lengths and seeds."""
    order: Tensor = field(metadata=_per_position(NEVER))
    """[B, T] int64, as in `Step`."""
    last_confidence: Tensor = field(metadata=_per_position(-torch.inf))
    """[B, T] float32, as in `Step`."""
    just_committed: Tensor = field(metadata=_per_position(False))
    """[B, T] bool, as in `Step`."""
    computed_at: Tensor = field(metadata=_per_position(NEVER))
    """[B, T] int64: value of num_forwards when the slot was computed; NEVER before."""
    num_forwards: Tensor = field(metadata=_per_sequence())
    """[B] forwards of this sequence so far."""
    block_step: Tensor = field(metadata=_per_sequence())
    """[B] step within the active block."""
    block: Tensor = field(metadata=_per_sequence())
    """[B] number of the active block."""
    done: Tensor = field(metadata=_per_sequence())
    """[B] bool: finished."""
    broken: Tensor = field(metadata=_per_sequence())
    """[B] bool: logits that were not finite have been read, so nothing that follows means anything."""
    decoder_state: Tensor | None = field(default=None, metadata=_per_position(0.0))
    """[B, T, K] float32, as in `Step`; None for a decoder that keeps none."""
    unconditional_hidden: Tensor | None = field(default=None, metadata=_per_position(0.0, scratch=1))
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
        return replace(self, canvas=self.canvas.gather(index, width), **_gathered(self, index, width))

    def cat(self, others: Sequence[SequenceState], width: int) -> SequenceState:
        """These rows and then the others', at `width` positions."""
        every = [self, *others]
        canvas = self.canvas.cat([other.canvas for other in others], width)
        return replace(self, canvas=canvas, **_joined(every, [len(one.num_forwards) for one in every], width))

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


def lay_out(
    prompts: Sequence[Sequence[int]],
    gen_length: int,
    mask_id: int,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    first_request: int = 0,
    guided: bool = False,
    given: Sequence[Sequence[int | None]] = (),
) -> Canvas:
    """Put each prompt at the left of its row, followed by `gen_length` masked positions; pad on the right.

    given: for each prompt what follows it instead, or nothing: token ids, None where masked; the first `gen_length` are
    the response, and others may come after it. guided: an unconditional row comes right after the row of each prompt,
    with all that is given masked.
    """
    tails = [tuple(tail) or (None,) * gen_length for tail in given or [()] * len(prompts)]
    rows = [[*prompt, *tail] for prompt, tail in zip(prompts, tails, strict=True)]
    batch, width = len(rows), max(map(len, rows))
    tokens = torch.full((batch, width), mask_id, dtype=torch.int64)
    committed_at = torch.full((batch, width), GIVEN, dtype=torch.int64)
    for row, known in enumerate(rows):
        tokens[row, : len(known)] = torch.tensor([mask_id if t is None else t for t in known], dtype=torch.int64)
        committed_at[row, : len(known)] = torch.tensor([NEVER if t is None else GIVEN for t in known])
    prompt = torch.tensor([len(p) for p in prompts], dtype=torch.int64)
    length = torch.tensor([len(known) for known in rows], dtype=torch.int64)
    seed, request = torch.tensor(list(seeds), dtype=torch.int64), first_request + torch.arange(batch)
    repeats = None
    if guided:
        tokens, committed_at, prompt, length, seed, request = (
            x.repeat_interleave(2, dim=0) for x in (tokens, committed_at, prompt, length, seed, request)
        )
        tokens[1::2] = mask_id
        place = torch.arange(2 * batch)
        repeats = torch.where(place % 2 == 1, place - 1, -1)
    position = torch.arange(width)
    live = position < length[:, None]
    response = live & (position >= prompt[:, None]) & (position < prompt[:, None] + gen_length)
    return Canvas(
        tokens=tokens.to(device),
        prompt=prompt.to(device),
        length=length.to(device),
        committed_at=committed_at.to(device),
        seed=seed.to(device),
        request=request.to(device),
        position=position.to(device),
        live=live.to(device),
        response=response.to(device),
        unconditional_of=None if repeats is None else repeats.to(device),
    )


def lowest(key: Tensor, count: Tensor) -> Tensor:
    """Mark, in each row of key [B, T], the `count` [B] lowest entries, none for 0 and less; ties go to the lowest
    position. [B, T] bool."""
    order = key.sort(dim=1, stable=True).indices
    inside = torch.arange(key.shape[1], device=key.device) < count[:, None]
    return torch.empty_like(inside).scatter_(1, order, inside)


def _gathered(source: DataclassInstance, rows: Tensor, width: int) -> dict[str, Any]:
    """The fields of the `rows` [N] (int64), in that order, cut or padded to `width` positions. What is cut must be
    padding."""
    found: dict[str, Any] = {}
    for one in _row_fields(source):
        value = getattr(source, one.name)
        found[one.name] = None if value is None else _fitted(one, value.index_select(0, rows), width)
    return found


def _joined(sources: Sequence[DataclassInstance], counts: Sequence[int], width: int) -> dict[str, Any]:
    """The fields of all sources, of `counts` rows each, one after another, cut or padded to `width` positions. Where
    some lack an optional field, or have fewer columns of it, zeros stand in."""
    found: dict[str, Any] = {}
    for one in _row_fields(sources[0]):
        values = [getattr(source, one.name) for source in sources]
        found[one.name] = _stacked([None if v is None else _fitted(one, v, width) for v in values], counts)
    return found


def _row_fields(source: DataclassInstance) -> list[Field[Any]]:
    return [one for one in fields(source) if _ROWS in one.metadata]


def _fitted(one: Field[Any], x: Tensor, width: int) -> Tensor:
    """x [B, T + scratch, ...] with `width` positions instead of T."""
    if one.metadata[_ROWS] is None:
        return x
    fill, scratch = one.metadata[_ROWS]
    if x.shape[1] == width + scratch:
        return x
    x = x[:, : min(x.shape[1] - scratch, width)]
    missing = width + scratch - x.shape[1]
    return torch.cat((x, x.new_full((len(x), missing, *x.shape[2:]), fill)), dim=1) if missing else x.contiguous()


def _stacked(parts: Sequence[Tensor | None], counts: Sequence[int]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    if not known:
        return None
    if known[0].dim() < 3:
        return torch.cat(known)
    like, columns = known[0], max(part.shape[2] for part in known)
    return torch.cat([
        like.new_zeros((count, like.shape[1], columns)) if part is None else F.pad(part, (0, columns - part.shape[2]))
        for part, count in zip(parts, counts, strict=True)
    ])  # fmt: skip
