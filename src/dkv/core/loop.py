"""The loop body: plan -> forward -> read -> commit, for whatever sequences are active. There is no second loop.

`advance(state)` runs one denoising step. Everything that can differ between sequences (prompt and response length,
clock, step, block, temperature, seed) is a tensor with one entry per sequence; the host learns one list of counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.canvas import Canvas
from dkv.core.guidance import Guidance
from dkv.core.kv_cache import KVCache
from dkv.core.layer_rules import Rules
from dkv.core.logit_rows import LogitRows
from dkv.core.logits_processors import LogitsProcessor, QueriedPositions
from dkv.core.model import Model, argmax_with_logprob_of
from dkv.core.packing import Bucket, Counted, PackedRows, exact, pack, select_rows
from dkv.core.policy import CachePolicy, Decoder, Plan, StatefulDecoder, Step, state_size_of
from dkv.core.sampling import (
    Argmax,
    Predictions,
    Sampling,
    argmax,
    log_confidence,
    noise_key,
    sample,
    unmasked_argmax,
    with_mask_token,
)
from dkv.errors import AuditError, RequestError

__all__ = ["Schedule", "State", "StepOutput", "advance", "finish", "not_finite"]


@dataclass(frozen=True)
class Schedule:
    """The semi-autoregressive schedule of each sequence."""

    block_length: Tensor
    """[B] positions of a block."""
    blocks: Tensor
    """[B] number of blocks."""
    steps: Tensor
    """[B] steps in each block."""
    adaptive: Tensor | None = None
    """[B] bool: a block ends as soon as it is complete; None = as the decoder says."""
    grows: Tensor | None = None
    """[B] bool: the positions of a block exist only once the block before it has ended; None = nowhere."""


@dataclass
class State:
    """A running batch: what is fixed for its sequences, and below what changes with every step."""

    model: Model
    """The network."""
    canvas: Canvas
    """Tokens, and when each was committed."""
    memory: KVCache
    """Keys and values of every slot."""
    policy: CachePolicy
    """Chooses the rows to compute."""
    decoder: Decoder
    """Chooses the positions to read and to commit."""
    sampling: Sampling
    """Temperature and filters of each sequence."""
    schedule: Schedule
    """Blocks and steps of each sequence."""
    stop_ids: tuple[int, ...] = ()
    """End-of-text ids that finish a sequence; () = fill the canvas."""
    fills: Tensor | None = None
    """[B] bool: sequences that fill the canvas whatever stop_ids says; None = none."""
    logits_processors: tuple[LogitsProcessor, ...] = ()
    """Change the logits before a token is chosen, in this order."""
    bucket: Bucket = exact
    """Rounds row counts up to sizes that kernels are prepared for."""
    guidance: Guidance | None = None
    """Classifier-free guidance, where the canvas has unconditional rows."""
    audit: bool = False
    """Check every read of the cache and every commit."""
    num_forwards: Tensor = field(init=False)
    """[B] forwards of this sequence so far."""
    block_step: Tensor = field(init=False)
    """[B] step within the active block."""
    block: Tensor = field(init=False)
    """[B] number of the active block."""
    done: Tensor = field(init=False)
    """[B] bool: finished."""
    broken: Tensor = field(init=False)
    """[B] bool: logits that were not finite have been read, so nothing that follows means anything."""
    order: Tensor = field(init=False)
    """[B, T] as in `Step`."""
    last_confidence: Tensor = field(init=False)
    """[B, T] as in `Step`."""
    just_committed: Tensor = field(init=False)
    """[B, T] as in `Step`."""
    decoder_state: Tensor | None = field(init=False)
    """[B, T, K] as in `Step`."""
    ragged: bool = field(init=False)
    """Whether any position is padding."""

    def __post_init__(self) -> None:
        canvas, zero = self.canvas, torch.zeros_like(self.canvas.prompt)
        self.clock, self.index, self.block, self.done, self.broken = zero, zero, zero, zero.bool(), zero.bool()
        self.rank = self.decoder.commit_order(canvas)
        self.score = torch.full_like(canvas.tokens, -torch.inf, dtype=torch.float32)
        self.fresh = torch.zeros_like(canvas.live)
        kept = state_size_of(self.decoder)
        self.notes = self.score.new_zeros(*self.score.shape, kept) if kept else None
        self.reach()
        self.ragged = not bool(canvas.live.all())

    def reach(self) -> None:
        """Let the sequences that grow reach to the end of their active block."""
        grows = self.schedule.grows
        if grows is None:
            return
        canvas, schedule = self.canvas, self.schedule
        length = canvas.prompt + torch.minimum(self.block + 1, schedule.blocks) * schedule.block_length
        canvas.length = torch.where(grows, length, canvas.length)
        canvas.live = canvas.position < canvas.length[:, None]
        own = canvas.live & (canvas.position >= canvas.prompt[:, None])
        canvas.response = torch.where(grows[:, None], own, canvas.response)


@dataclass(frozen=True)
class StepOutput:
    """What one step did. B sequences, T positions."""

    step: Step
    """What policy and decoder saw."""
    rows: Tensor
    """[B, T] bool: rows that were carried."""
    counts: list[int]
    """[B] carried rows of each sequence."""
    lengths: list[int]
    """[B] positions of each sequence."""
    picked: list[int]
    """[B] rows that each selecting layer recomputed."""
    rules: Rules
    """Which layers select."""
    work: list[int]
    """[B] rows that passed through a feed-forward, summed over layers."""
    done: list[bool]
    """[B] sequences that were finished before this step."""
    predictions: Predictions | None
    """What was read; None where nothing was."""
    committed: Tensor
    """[B, T] bool: positions that the decoder committed."""
    head_rows: int = 0
    """Rows through the output head, those of unconditional rows included."""


@torch.inference_mode()
def advance(state: State) -> StepOutput | None:
    """One denoising step of every sequence that is not done; None when all are.

    Raises RequestError where the logits of the step before were not finite in a sequence that is still there, and
    AuditError under audit, where a plan would let attention read a slot that was never computed, or a decoder fixes
    what was not read.
    """
    step, plan, rows = _plan(state)
    carried = rows.sum(1)
    picks = carried if plan.rules.dense else plan.num_selected(rows)
    # The only host sync of a step: the shapes, and who is finished.
    told = torch.cat(
        (_read_by(step).sum().view(1), carried, picks, state.done, state.canvas.length, state.broken)
    ).tolist()
    reads, *parts = told[0], *(told[1 + n * len(rows) : 1 + (n + 1) * len(rows)] for n in range(5))
    counts, picked, done, lengths, broken = parts
    if any(broken):
        raise not_finite(state.model.dtype)
    if all(done):
        return None
    read = None
    if any(counts):  # else a step without work: the schedule has more steps than tokens
        at = _places(state, plan, rows, Counted(counts, carried), Counted(picked, picks))
        reading = _reading(state, step, at, rows, reads) if reads else None
        tokens = F.pad(state.canvas.tokens, (0, 1)).view(-1).index_select(0, at.slot_mapping)
        hidden = state.model.forward(tokens, at, state.memory, plan.rules)
        if (
            state.guidance is not None and plan.skip_unconditional is not None
        ):  # also where nothing is read: a later step may need it
            state.guidance.keep(at, hidden, plan.skip_unconditional)
        read = None if reading is None else _read(state, plan, reading, hidden)
    committed = _commit(state, step, read, plan.commits)
    _turn(state, step, plan.skip_unconditional)
    layers = state.model.config.layers
    narrowed = plan.rules.narrowed(layers)
    work = [n * (layers - narrowed) + m * narrowed for n, m in zip(counts, picked, strict=True)]
    heads = (
        0 if read is None else reads * (1 if state.guidance is None else state.guidance.passes(plan.skip_unconditional))
    )
    return StepOutput(
        step, rows, counts, lengths, picked, plan.rules, work, [bool(d) for d in done], read, committed, heads
    )


def _plan(state: State) -> tuple[Step, Plan, Tensor]:
    """What is seen, what the policy answers to it, and the rows [B, T] to carry."""
    step = _observe(state)
    plan = _with_new(state, state.policy.plan(step))
    if plan.query is not None:
        step = step.with_query(step.query & plan.query)
    rows = (plan.rows | step.query_rows) & ~state.done[:, None]
    return step, plan, rows if plan.skip_unconditional is None else rows & ~plan.skip_unconditional[:, None]


def _with_new(state: State, plan: Plan) -> Plan:
    """The plan, and what a growing sequence has never computed: carried, recomputed by every layer, with its guide."""
    if state.schedule.grows is None:
        return plan
    new = state.canvas.live & ~state.memory.computed & state.schedule.grows[:, None]
    forced = new if plan.forced is None else plan.forced | new
    return replace(
        plan,
        rows=plan.rows | new,
        forced=None if plan.rules.dense else forced,
        frozen=None if plan.frozen is None else plan.frozen & ~new,
        skip_unconditional=None if plan.skip_unconditional is None else plan.skip_unconditional & ~new.any(1),
    )


def _places(state: State, plan: Plan, rows: Tensor, counts: Counted, picks: Counted) -> PackedRows:
    """Where the rows [B, T] sit, `counts` of them, and the `picks` of layers that pick."""
    at = pack(rows, counts.told, _mask(state, rows, plan), state.bucket, counts.each)
    if plan.rules.dense:
        return at
    return replace(at, selection=select_rows(at, counts, picks, plan.forced, plan.frozen, state.bucket))


def _read_by(step: Step) -> Tensor:
    """[B, T] what is read: the wanted positions, guide rows aside."""
    guides = step.canvas.is_unconditional
    return step.query if guides is None else step.query & ~guides[:, None]


def finish(state: State, which: Tensor) -> None:
    """Finish the sequences `which` [B], and their guides: what is not fixed there becomes the end-of-text."""
    which = state.canvas.mirror(which)
    canvas, fill = state.canvas, state.canvas.unfixed & which[:, None]
    canvas.tokens = torch.where(fill, state.model.config.eos_ids[0], canvas.tokens)
    canvas.committed_at = torch.where(fill, state.clock[:, None], canvas.committed_at)
    state.done = state.done | which


def _observe(state: State) -> Step:
    """What policies and decoders may see now."""
    canvas, schedule = state.canvas, state.schedule
    first = canvas.prompt + state.block * schedule.block_length
    step = Step(
        canvas=canvas,
        num_forwards=state.clock,
        block_step=state.index,
        block_steps=schedule.steps,
        block=(first, first + schedule.block_length),
        query=state.fresh,
        order=state.rank,
        last_confidence=state.score,
        just_committed=state.fresh,
        computed_at=state.memory.computed_at,
        shift=state.model.config.shift,
        decoder_state=state.notes,
    )
    # The unconditional row has its own count of forwards, by which a decoder that draws would ask for other positions.
    return step.with_query(canvas.mirror(state.decoder.query(step)))


def _mask(state: State, rows: Tensor, plan: Plan) -> Tensor | None:
    """Note what is about to be computed; the slots that attention may read, [B, 1, 1, T], or None for all."""
    state.memory.note(rows if plan.frozen is None else rows & ~plan.frozen, state.clock)
    live, visible = state.canvas.live, plan.visible
    readable = live if visible is None else live & visible & state.memory.computed
    if state.audit:
        state.memory.audit(readable, ~state.done)
    return readable[:, None, None] if state.ragged or visible is not None else None


def _reading(state: State, step: Step, at: PackedRows, rows: Tensor, reads: int) -> LogitRows:
    """The positions that are read, so many, and the carried rows [B, T] that predict them."""
    return LogitRows.of(_read_by(step), reads, rows, at.whole, step.shift, state.sampling)


def _read(state: State, plan: Plan, reading: LogitRows, hidden: Tensor) -> Predictions:
    """Run the head on the rows that predict what is read, and choose a candidate for each."""
    logits = _logits(state, plan, reading, hidden)
    token, confidence = _candidates(state, logits, reading)
    _find_broken(state, reading, confidence)
    return Predictions(reading.flat, reading.shape, token, confidence, logits, reading.sampling)


def _find_broken(state: State, reading: LogitRows, confidence: Tensor) -> None:
    """Note the sequences where the log-probability of a candidate is no number: any NaN or +inf in its logits makes it
    so, and where all are -inf."""
    bad = torch.zeros_like(state.clock).index_add_(0, reading.sequence, (~confidence.isfinite()).long())
    state.broken = state.broken | (bad > 0)


def not_finite(dtype: torch.dtype) -> RequestError:
    """Why a sequence whose logits are not finite has no tokens."""
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float16:
        return RequestError(
            "the logits are not finite in float16, whose largest number is 65504; load the model with "
            "dtype='bfloat16' or dtype='float32'"
        )
    return RequestError(
        f"the logits are not finite in {name}: weights or activations hold NaN or infinity; check the checkpoint"
    )


def _candidates(state: State, logits: Tensor, reading: LogitRows) -> tuple[Tensor, Tensor]:
    """A candidate [M] for each row of logits [M, V], and its log-probability [M] under them."""
    sampling, mask_id = reading.sampling, state.model.config.mask_id
    if sampling.greedy and not state.logits_processors:
        return argmax_with_logprob_of(state.model)(logits, mask_id)
    wide, likeliest, top = _processed(state, logits, reading)
    if sampling.greedy:
        return likeliest, log_confidence(logits, likeliest, top)
    key = noise_key(state.canvas.seed[reading.sequence], state.clock[reading.sequence], reading.position)
    token = sample(wide, likeliest, sampling, mask_id, key)
    return token, log_confidence(logits, token, top)


def _processed(state: State, logits: Tensor, reading: LogitRows) -> tuple[Tensor, Tensor, Argmax]:
    """The logits [M, V] float32 to choose from, the most likely token [M] by them, and the argmax of logits [M, V]."""
    mask_id = state.model.config.mask_id
    if not state.logits_processors:
        wide = logits.float()
        likeliest = unmasked_argmax(wide, mask_id)
        return wide, likeliest.token, with_mask_token(wide, mask_id, likeliest)
    wide = logits.to(torch.float32, copy=True)  # decoders see the logits of the model
    positions = QueriedPositions(reading.sequence, reading.position, state.canvas)
    for processor in state.logits_processors:
        wide = processor(wide, positions)
    return wide, unmasked_argmax(wide, mask_id).token, argmax(logits)


def _logits(state: State, plan: Plan, reading: LogitRows, hidden: Tensor) -> Tensor:
    """Logits [M, V] of what is read, guided where there are guides."""
    logits, guidance = _head(state, hidden.index_select(0, reading.row)), state.guidance
    if guidance is None:
        return logits
    beside = None
    if plan.skip_unconditional is None:
        beside = hidden.index_select(0, reading.row_in(guidance.partner[reading.sequence]))
    return guidance.apply(state.model, logits, reading.sequence, reading.slot, beside)


def _head(state: State, hidden: Tensor) -> Tensor:
    """Logits [M, V] of hidden states [M, C], which come in buckets as rows do: a new number may cost a new kernel."""
    reads = len(hidden)
    size = state.bucket(reads)
    return state.model.logits(hidden if size == reads else F.pad(hidden, (0, 0, 0, size - reads)))[:reads]


def _note(state: State, step: Step, read: Predictions) -> Step:
    """Keep what the decoder notes of this read; the step as it then is."""
    if state.notes is None or not isinstance(state.decoder, StatefulDecoder):
        return step
    notes = state.notes.flatten(0, 1).index_copy(0, read.flat, state.decoder.update_state(step, read))
    state.notes = notes.view_as(state.notes)
    return replace(step, decoder_state=state.notes)


def _commit(state: State, step: Step, read: Predictions | None, always: Tensor | None) -> Tensor:
    """Let the decoder fix tokens, and what is to be fixed `always` [B, T]; write them on the canvas; [B, T] what was
    fixed."""
    if read is None:
        state.fresh = torch.zeros_like(state.fresh)
        return state.fresh
    step = _note(state, step, read)
    picked = state.decoder.commit(step, read)
    picked = picked if always is None else picked | (always & step.query)
    canvas, chosen = state.canvas, state.canvas.mirror(picked)
    if state.audit and bool((chosen & ~step.query).any()):
        raise AuditError("the decoder fixed a position that it had not read")
    candidates = canvas.mirror(canvas.tokens.view(-1).scatter(0, read.flat, read.token).view_as(canvas.tokens))
    canvas.tokens = torch.where(chosen, candidates, canvas.tokens)
    canvas.committed_at = torch.where(chosen, state.clock[:, None], canvas.committed_at)
    state.score = canvas.mirror(state.score.view(-1).scatter(0, read.flat, read.confidence).view_as(state.score))
    state.fresh = chosen
    return chosen


def _turn(state: State, step: Step, rest: Tensor | None) -> None:
    """Move clocks, steps and blocks on, and finish the sequences that are complete or have ended their text."""
    going = (~state.done).long()
    state.clock = state.clock + (going if rest is None else going * ~rest)
    index = state.index + going
    ended = index >= state.schedule.steps
    following = state.block + 1
    adaptive = state.schedule.adaptive
    if state.decoder.adaptive if adaptive is None else True:
        first = _first(state.canvas, state.canvas.unfixed)
        complete = first >= step.block[1]
        ended = ended | (complete if adaptive is None else complete & adaptive)
        # A block in which all is given, of which a text with holes may have some, is passed over.
        ahead = (first - state.canvas.prompt) // state.schedule.block_length
        ahead = torch.maximum(following, torch.minimum(ahead, state.schedule.blocks))
        following = ahead if adaptive is None else torch.where(adaptive, ahead, following)
    state.index = torch.where(ended, 0, index)
    state.block = torch.where(ended, following, state.block)
    state.done = state.done | (state.block >= state.schedule.blocks)
    if state.stop_ids:
        over = _text_ended(state)
        finish(state, over if state.fills is None else over & ~state.fills)
    state.reach()


def _text_ended(state: State) -> Tensor:
    """[B] whether everything before the first end-of-text of the response is fixed, so that nothing can change it."""
    canvas, masked = state.canvas, state.canvas.masked
    stop = canvas.tokens == state.stop_ids[0]
    for other in state.stop_ids[1:]:
        stop = stop | (canvas.tokens == other)
    return _first(canvas, stop & canvas.response & ~masked) < _first(canvas, masked)


def _first(canvas: Canvas, which: Tensor) -> Tensor:
    """[B] the first position of which [B, T]; T where there is none."""
    return torch.where(which, canvas.position, canvas.tokens.shape[1]).amin(1)
