"""The loop body: plan -> forward -> read -> commit, for whatever sequences are active. There is no second loop.

`advance(state)` runs one denoising step. Everything that can differ between sequences (prompt and response length,
clock, step, block, temperature, seed) is a tensor with one entry per sequence; the host learns one list of counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.canvas import Canvas, SequenceState
from dkv.core.guidance import Guidance
from dkv.core.kv_cache import KVCache
from dkv.core.layer_rules import Rules
from dkv.core.logits_processors import LogitsProcessor, QueriedPositions
from dkv.core.model import Model, logit_ops_of
from dkv.core.packing import Bucket, Counted, PackedRows, exact, pack, select_rows
from dkv.core.policy import CachePolicy, Decoder, Plan, StatefulDecoder, Step, state_size_of
from dkv.core.sampling import LogitRows, Predictions, Sampling, noise_key, sample
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
    """A running batch: its sequences, and what is fixed for them."""

    model: Model
    """The network."""
    sequences: SequenceState
    """Where each sequence stands: all that changes with every step."""
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
    raises_not_finite: bool = True
    """`advance` raises where logits were not finite; False = `StepOutput.broken` says so."""
    ragged: bool = field(init=False)
    """Whether any position is padding."""

    def __post_init__(self) -> None:
        grows = self.schedule.grows
        self.sequences.resize_decoder_state(state_size_of(self.decoder))
        self.reach()
        self.ragged = not bool(self.canvas.live.all())
        if grows is not None:  # padding before its last block, where it may stand now
            self.ragged = self.ragged or bool((grows & (self.schedule.blocks > 1)).any())

    @property
    def canvas(self) -> Canvas:
        """Tokens, and when each was committed."""
        return self.sequences.canvas

    def reach(self) -> None:
        """Let the sequences that grow reach to the end of their active block."""
        grows = self.schedule.grows
        if grows is None:
            return
        canvas, schedule = self.canvas, self.schedule
        length = canvas.prompt + torch.minimum(self.sequences.block + 1, schedule.blocks) * schedule.block_length
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
    broken: list[bool]
    """[B] sequences whose logits were not finite in a step before."""
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
    sequences = state.sequences
    told = torch.cat(
        (_read_by(step).sum().view(1), carried, picks, sequences.done, state.canvas.length, sequences.broken)
    ).tolist()
    reads, *parts = told[0], *(told[1 + n * len(rows) : 1 + (n + 1) * len(rows)] for n in range(5))
    counts, picked, done, lengths, broken = parts
    if any(broken) and state.raises_not_finite:
        raise not_finite(state.model.dtype)
    if all(done):
        return None
    read = None
    if any(counts):  # else a step without work: the schedule has more steps than tokens
        at = _places(state, plan, rows, Counted(counts, carried), Counted(picked, picks))
        reading = _reading(state, step, at, rows, reads) if reads else None
        tokens = F.pad(state.canvas.tokens, (0, 1)).view(-1).index_select(0, at.slot_mapping)
        hidden = state.model.forward(tokens, at, state.memory, plan.rules)
        if state.guidance is not None and plan.skip_unconditional is not None:
            # Also where nothing is read: a later step may need it.
            kept = sequences.unconditional_hidden
            sequences.unconditional_hidden = state.guidance.keep(kept, at, hidden, plan.skip_unconditional)
        read = None if reading is None else _read(state, plan, reading, hidden)
    committed = _commit(state, step, read, plan.commits)
    _turn(state, step, plan.skip_unconditional)
    layers = state.model.config.layers
    narrowed = plan.rules.narrowed(layers)
    work = [n * (layers - narrowed) + m * narrowed for n, m in zip(counts, picked, strict=True)]
    passes = 1 if state.guidance is None else state.guidance.passes(plan.skip_unconditional)
    heads = 0 if read is None else reads * passes
    return StepOutput(
        step, rows, counts, lengths, picked, plan.rules, work, _bools(done), _bools(broken), read, committed, heads
    )


def _bools(flags: list[int]) -> list[bool]:
    return [bool(flag) for flag in flags]


def _plan(state: State) -> tuple[Step, Plan, Tensor]:
    """What is seen, what the policy answers to it, and the rows [B, T] to carry."""
    step = _observe(state)
    plan = _with_new(state, state.policy.plan(step))
    if plan.query is not None:
        step = step.with_query(step.query & plan.query)
    rows = (plan.rows | step.query_rows) & ~state.sequences.done[:, None]
    return step, plan, rows if plan.skip_unconditional is None else rows & ~plan.skip_unconditional[:, None]


def _with_new(state: State, plan: Plan) -> Plan:
    """The plan, and what a growing sequence has never computed: carried, recomputed by every layer, with its guide."""
    if state.schedule.grows is None:
        return plan
    new = state.canvas.live & ~state.sequences.computed & state.schedule.grows[:, None]
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
    sequences, which = state.sequences, state.canvas.mirror(which)
    canvas, fill = state.canvas, state.canvas.unfixed & which[:, None]
    canvas.tokens = torch.where(fill, state.model.config.eos_ids[0], canvas.tokens)
    canvas.committed_at = torch.where(fill, sequences.num_forwards[:, None], canvas.committed_at)
    sequences.done = sequences.done | which


def _observe(state: State) -> Step:
    """What policies and decoders may see now."""
    canvas, schedule, sequences = state.canvas, state.schedule, state.sequences
    first = canvas.prompt + sequences.block * schedule.block_length
    step = Step(
        canvas=canvas,
        num_forwards=sequences.num_forwards,
        block_step=sequences.block_step,
        block_steps=schedule.steps,
        block=(first, first + schedule.block_length),
        query=sequences.just_committed,
        order=sequences.order,
        last_confidence=sequences.last_confidence,
        just_committed=sequences.just_committed,
        computed_at=sequences.computed_at,
        shift=state.model.config.shift,
        decoder_state=sequences.decoder_state,
    )
    # The unconditional row has its own count of forwards, by which a decoder that draws would ask for other positions.
    return step.with_query(canvas.mirror(state.decoder.query(step)))


def _mask(state: State, rows: Tensor, plan: Plan) -> Tensor | None:
    """Note what is about to be computed; the slots that attention may read, [B, 1, 1, T], or None for all."""
    sequences = state.sequences
    sequences.mark_computed(rows if plan.frozen is None else rows & ~plan.frozen)
    live, visible = state.canvas.live, plan.visible
    readable = live if visible is None else live & visible & sequences.computed
    if state.audit:
        sequences.audit(readable)
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
    sequences = state.sequences
    bad = torch.zeros_like(sequences.num_forwards).index_add_(0, reading.sequence, (~confidence.isfinite()).long())
    sequences.broken = sequences.broken | (bad > 0)


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
    sampling, mask_id, ops = reading.sampling, state.model.config.mask_id, logit_ops_of(state.model)
    if sampling.greedy and not state.logits_processors:
        return ops.argmax_with_logprob(logits, mask_id)
    wide = _processed(state, logits, reading)
    token = ops.unmasked_argmax(wide, mask_id).token
    if not sampling.greedy:
        key = noise_key(
            state.canvas.seed[reading.sequence], state.sequences.num_forwards[reading.sequence], reading.position
        )
        token = sample(wide, token, sampling, mask_id, key)
    return token, ops.log_confidence(logits, token)


def _processed(state: State, logits: Tensor, reading: LogitRows) -> Tensor:
    """The logits [M, V] float32 to choose from."""
    if not state.logits_processors:
        return logits.float()
    wide = logits.to(torch.float32, copy=True)  # decoders see the logits of the model
    positions = QueriedPositions(reading.sequence, reading.position, state.canvas)
    for processor in state.logits_processors:
        wide = processor(wide, positions)
    return wide


def _logits(state: State, plan: Plan, reading: LogitRows, hidden: Tensor) -> Tensor:
    """Logits [M, V] of what is read, guided where there are guides."""
    logits, guidance = _head(state, hidden.index_select(0, reading.row)), state.guidance
    if guidance is None:
        return logits
    beside, kept = None, state.sequences.unconditional_hidden
    if plan.skip_unconditional is None:
        beside = hidden.index_select(0, reading.row_in(guidance.partner[reading.sequence]))
    return guidance.apply(state.model, logits, reading.sequence, reading.slot, beside, kept)


def _head(state: State, hidden: Tensor) -> Tensor:
    """Logits [M, V] of hidden states [M, C], which come in buckets as rows do: a new number may cost a new kernel."""
    reads = len(hidden)
    size = state.bucket(reads)
    return state.model.logits(hidden if size == reads else F.pad(hidden, (0, 0, 0, size - reads)))[:reads]


def _note(state: State, step: Step, read: Predictions) -> Step:
    """Keep what the decoder notes of this read; the step as it then is."""
    sequences = state.sequences
    if sequences.decoder_state is None or not isinstance(state.decoder, StatefulDecoder):
        return step
    kept = sequences.decoder_state.flatten(0, 1).index_copy(0, read.flat, state.decoder.update_state(step, read))
    sequences.decoder_state = kept.view_as(sequences.decoder_state)
    return replace(step, decoder_state=sequences.decoder_state)


def _commit(state: State, step: Step, read: Predictions | None, always: Tensor | None) -> Tensor:
    """Let the decoder fix tokens, and what is to be fixed `always` [B, T]; write them on the canvas; [B, T] what was
    fixed."""
    sequences = state.sequences
    if read is None:
        sequences.just_committed = torch.zeros_like(sequences.just_committed)
        return sequences.just_committed
    step = _note(state, step, read)
    picked = state.decoder.commit(step, read)
    picked = picked if always is None else picked | (always & step.query)
    canvas, chosen = state.canvas, state.canvas.mirror(picked)
    if state.audit and bool((chosen & ~step.query).any()):
        raise AuditError("the decoder fixed a position that it had not read")
    candidates = canvas.mirror(canvas.tokens.view(-1).scatter(0, read.flat, read.token).view_as(canvas.tokens))
    canvas.tokens = torch.where(chosen, candidates, canvas.tokens)
    canvas.committed_at = torch.where(chosen, sequences.num_forwards[:, None], canvas.committed_at)
    score = sequences.last_confidence
    score = score.view(-1).scatter(0, read.flat, read.confidence).view_as(score)
    sequences.last_confidence = canvas.mirror(score)
    sequences.just_committed = chosen
    return chosen


def _turn(state: State, step: Step, rest: Tensor | None) -> None:
    """Move clocks, steps and blocks on, and finish the sequences that are complete or have ended their text."""
    sequences = state.sequences
    going = (~sequences.done).long()
    sequences.num_forwards = sequences.num_forwards + (going if rest is None else going * ~rest)
    index = sequences.block_step + going
    ended = index >= state.schedule.steps
    following = sequences.block + 1
    adaptive = state.schedule.adaptive
    if state.decoder.adaptive if adaptive is None else True:
        first = _first(state.canvas, state.canvas.unfixed)
        complete = first >= step.block[1]
        ended = ended | (complete if adaptive is None else complete & adaptive)
        # A block in which all is given, of which a text with holes may have some, is passed over.
        ahead = (first - state.canvas.prompt) // state.schedule.block_length
        ahead = torch.maximum(following, torch.minimum(ahead, state.schedule.blocks))
        following = ahead if adaptive is None else torch.where(adaptive, ahead, following)
    sequences.block_step = torch.where(ended, 0, index)
    sequences.block = torch.where(ended, following, sequences.block)
    sequences.done = sequences.done | (sequences.block >= state.schedule.blocks)
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
