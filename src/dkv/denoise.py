"""The loop body: plan -> forward -> read -> commit, for whatever sequences are active. There is no second loop.

`advance(state)` runs one denoising step. Everything that can differ between sequences (prompt and response length,
clock, step, block, temperature, seed) is a tensor with one entry per sequence; the host learns one list of counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.canvas import Canvas
from dkv.errors import AuditError
from dkv.memory import Memory
from dkv.model import Model
from dkv.plan import At, Bucket, CachePolicy, Decoder, Step, exact, pack
from dkv.sampling import Read, Sampling, choose, draw, log_confidence, noise_key

__all__ = ["Schedule", "State", "Tick", "advance", "finish"]


@dataclass(frozen=True)
class Schedule:
    """The semi-autoregressive schedule per sequence: block_length [B], blocks [B], and steps [B] in each block."""

    block_length: Tensor
    blocks: Tensor
    steps: Tensor


@dataclass
class State:
    """A running batch. stop_ids: end-of-text ids that finish a sequence, () = fill the canvas; bucket: how row counts
    round up; audit: check every read.

    What changes: clock, index, block [B], forwards so far, step within the block, and its number; done [B]; rank,
    score, fresh [B, T] as in `Step`; ragged: whether any position is padding.
    """

    model: Model
    canvas: Canvas
    memory: Memory
    policy: CachePolicy
    decoder: Decoder
    sampling: Sampling
    schedule: Schedule
    stop_ids: tuple[int, ...] = ()
    bucket: Bucket = exact
    audit: bool = False
    clock: Tensor = field(init=False)
    index: Tensor = field(init=False)
    block: Tensor = field(init=False)
    done: Tensor = field(init=False)
    rank: Tensor = field(init=False)
    score: Tensor = field(init=False)
    fresh: Tensor = field(init=False)
    ragged: bool = field(init=False)

    def __post_init__(self) -> None:
        canvas, zero = self.canvas, torch.zeros_like(self.canvas.prompt)
        self.clock, self.index, self.block, self.done = zero, zero, zero, zero.bool()
        self.rank = self.decoder.rank(canvas)
        self.score = torch.full_like(canvas.tokens, -torch.inf, dtype=torch.float32)
        self.fresh = torch.zeros_like(canvas.live)
        self.ragged = not bool(canvas.live.all())


@dataclass(frozen=True)
class Tick:
    """What one step did. step: what was seen; rows [B, T]: what was computed; counts: rows of each sequence; done:
    which sequences were finished before; read: what was read, or None; committed [B, T]: what the decoder fixed."""

    step: Step
    rows: Tensor
    counts: list[int]
    done: list[bool]
    read: Read | None
    committed: Tensor


@torch.inference_mode()
def advance(state: State) -> Tick | None:
    """One denoising step of every sequence that is not done; None when all are.

    Raises AuditError under audit, where a plan would let attention read a slot that was never computed, or a decoder
    fixes what was not read.
    """
    step = _observe(state)
    plan = state.policy.plan(step)
    rows = (plan.rows | step.readers) & ~state.done[:, None]
    # The only host sync of a step: the shapes, and who is finished.
    reads, *numbers = torch.cat((step.wanted.sum().view(1), rows.sum(1), state.done)).tolist()
    counts, done = numbers[: len(rows)], [bool(n) for n in numbers[len(rows) :]]
    if all(done):
        return None
    read = None
    if any(counts):  # else a step without work: the schedule has more steps than tokens
        at = pack(rows, counts, _mask(state, rows, plan.visible), state.bucket)
        hidden = state.model.forward(F.pad(state.canvas.tokens, (0, 1)).view(-1)[at.flat], at, state.memory)
        read = _read(state, step, at, rows, hidden, reads) if reads else None
    committed = _commit(state, step, read)
    _turn(state)
    return Tick(step, rows, counts, done, read, committed)


def finish(state: State, which: Tensor) -> None:
    """Finish the sequences `which` [B]: what is still masked there becomes the end-of-text."""
    canvas, fill = state.canvas, state.canvas.masked & which[:, None]
    canvas.tokens = torch.where(fill, state.model.config.eos_ids[0], canvas.tokens)
    canvas.committed_at = torch.where(fill, state.clock[:, None], canvas.committed_at)
    state.done = state.done | which


def _observe(state: State) -> Step:
    """What policies and decoders may see now."""
    canvas, schedule = state.canvas, state.schedule
    first = canvas.prompt + state.block * schedule.block_length
    step = Step(
        canvas=canvas,
        clock=state.clock,
        index=state.index,
        steps=schedule.steps,
        block=(first, first + schedule.block_length),
        wanted=state.fresh,
        rank=state.rank,
        score=state.score,
        fresh=state.fresh,
        computed_at=state.memory.computed_at,
        shift=state.model.config.shift,
    )
    return replace(step, wanted=state.decoder.wanted(step))


def _mask(state: State, rows: Tensor, visible: Tensor | None) -> Tensor | None:
    """Note what is about to be computed; the slots that attention may read, [B, 1, 1, T], or None for all."""
    state.memory.note(rows, state.clock)
    readable = state.canvas.live if visible is None else state.canvas.live & visible & state.memory.computed
    if state.audit:
        state.memory.audit(readable, ~state.done)
    return readable[:, None, None] if state.ragged or visible is not None else None


def _read(state: State, step: Step, at: At, rows: Tensor, hidden: Tensor, reads: int) -> Read:
    """Run the head on the rows that predict the wanted positions, and choose a candidate for each."""
    batch, width = rows.shape
    flat = torch.nonzero_static(step.wanted.view(-1), size=reads).view(-1)
    sequence, position = flat // width, flat % width
    reader = sequence * width + (position - step.shift).clamp(min=0)
    carried = reader if at.whole else (rows.view(-1).cumsum(0) - 1)[reader]
    logits = state.model.logits(hidden[carried])
    token = choose(logits, state.model.config.mask_id)
    if not state.sampling.greedy:
        key = noise_key(state.canvas.seed[sequence], state.clock[sequence], position)
        token = draw(logits, token, state.sampling.at(sequence), state.model.config.mask_id, key)
    return Read(flat, (batch, width), token, log_confidence(logits, token), logits)


def _commit(state: State, step: Step, read: Read | None) -> Tensor:
    """Let the decoder fix tokens, and write them on the canvas; [B, T] what was fixed."""
    if read is None:
        state.fresh = torch.zeros_like(state.fresh)
        return state.fresh
    canvas, chosen = state.canvas, state.decoder.commit(step, read)
    if state.audit and bool((chosen & ~step.wanted).any()):
        raise AuditError("the decoder fixed a position that it had not read")
    candidates = canvas.tokens.view(-1).scatter(0, read.flat, read.token).view_as(canvas.tokens)
    canvas.tokens = torch.where(chosen, candidates, canvas.tokens)
    canvas.committed_at = torch.where(chosen, state.clock[:, None], canvas.committed_at)
    state.score = state.score.view(-1).scatter(0, read.flat, read.confidence).view_as(state.score)
    state.fresh = chosen
    return chosen


def _turn(state: State) -> None:
    """Move clocks, steps and blocks on, and finish the sequences that are complete or have ended their text."""
    going = (~state.done).long()
    state.clock = state.clock + going
    index = state.index + going
    ended = index >= state.schedule.steps
    state.index = torch.where(ended, 0, index)
    state.block = state.block + ended
    state.done = state.done | (state.block >= state.schedule.blocks)
    if state.stop_ids:
        finish(state, _text_ended(state))


def _text_ended(state: State) -> Tensor:
    """[B] whether everything before the first end-of-text of the response is fixed, so that nothing can change it."""
    canvas, masked = state.canvas, state.canvas.masked
    stop = canvas.tokens == state.stop_ids[0]
    for other in state.stop_ids[1:]:
        stop = stop | (canvas.tokens == other)
    far = canvas.tokens.shape[1]
    first_stop = torch.where(stop & canvas.response & ~masked, canvas.position, far).amin(1)
    return first_stop < torch.where(masked, canvas.position, far).amin(1)
