"""Requests that share forwards: one batch whose members change between steps.

Its rows stay packed: the last one moves into the place of one that leaves, and every step sees only the rows in use,
as wide as the longest of them. So what is computed follows the requests at hand, not the size of the buffers.

Where a step fails as a whole, it is done again for each member alone, and those that fail again are named. Nothing but
the buffers changes in place, and a dense forward overwrites what it has written; under rules that look at what a slot
held, the members that are not at fault begin again, which gives the same tokens, and tells nothing twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dkv.core.canvas import NEVER, Canvas, lay_out
from dkv.core.guidance import Guidance
from dkv.core.kv_cache import KVCache
from dkv.core.layer_rules import Rules
from dkv.core.logits_processors import logits_processors_of
from dkv.core.loop import Schedule, State, StepOutput, advance, finish, not_finite
from dkv.core.model import Model
from dkv.core.packing import Bucket
from dkv.core.policy import CachePolicy, Decoder, state_size_of
from dkv.engine.batch_setup import frame_of, sampling_of
from dkv.engine.detokenizer import Deltas
from dkv.engine.per_sequence import PerSequenceDecoder, PerSequencePolicy, numbered
from dkv.engine.policy_calls import CallLimits, PolicyCalls
from dkv.engine.request import Request, Update
from dkv.engine.request_errors import failure, is_memory, is_own, must_stop, name_of
from dkv.engine.row_state import Rows
from dkv.engine.sequence import Track
from dkv.engine.step_views import canvas_copy, checked
from dkv.engine.watchdog import OvertimeError, bounded
from dkv.errors import DkvError, RequestError

__all__ = ["BatchKey", "Member", "RunningBatch", "SequenceOutcome"]

_MOST_NOTES = 64
"""Numbers of each position that a decoder may keep."""
_MOST_BUFFERS = 16
"""Feature buffers that a layer may keep, each as large as the model's width."""


@dataclass(frozen=True)
class BatchKey:
    """What requests must have in common to share forwards and buffers. width: slots of a sequence, 0 = as many as the
    longest needs; rules: of the layers; guided: with a guide row each; dtype: of the cache; buffers: names of those
    that the rules keep, of the first layer and of the others.

    A rule may be another package's code, and a kind is used where nothing may fail: so kinds are equal where their
    rules are one object, and the buffers are asked for once. Raises RequestError for buffers that are none."""

    width: int
    rules: Rules = field(compare=False)
    guided: bool
    dtype: torch.dtype
    buffers: tuple[tuple[str, ...], tuple[str, ...]] = field(init=False, compare=False, repr=False)
    _rules: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rules", id(self.rules))
        object.__setattr__(self, "buffers", self.rules.buffers)
        for names in self.buffers:
            if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
                raise RequestError("the buffers of a layer rule must be a tuple of names")
            if len(names) > _MOST_BUFFERS:
                raise RequestError(f"the buffers of a layer rule must be at most {_MOST_BUFFERS}, not {len(names)}")

    @property
    def is_own(self) -> bool:
        """Whether no layer follows another package's rules."""
        return all(rule is None or is_own(rule) for rule in (self.rules.first, self.rules.rest))


@dataclass
class Member:
    """A request on its way. It takes one row, or two if guided. policy, decoder: its settings' own, or equal ones of
    another member, the same object; frames: how many were told; again: how many of those are still to come once more,
    where it began again."""

    request_id: int
    request: Request
    track: Track
    policy: CachePolicy
    decoder: Decoder
    frames: int = 0
    again: int = 0

    def __post_init__(self) -> None:
        """Raises RequestError for a decoder whose attributes are no such."""
        self.deltas = Deltas(self.track)
        decoder = self.decoder
        self._ends_early, self.notes = decoder.adaptive, state_size_of(decoder)
        if not isinstance(self._ends_early, bool):
            raise RequestError(f"decoder={name_of(decoder)!r}: its attribute adaptive must be True or False")
        if type(self.notes) is not int or not 0 <= self.notes <= _MOST_NOTES:
            raise RequestError(f"decoder={name_of(decoder)!r}: its attribute notes must be from 0 to {_MOST_NOTES}")

    @property
    def length(self) -> int:
        """Positions of prompt, response and what follows it."""
        return self.request.length

    @property
    def adaptive(self) -> bool:
        """Whether a block ends as soon as it is complete; one with given tokens has fewer to fix than steps."""
        return self._ends_early or bool(self.request.given)

    def restart(self) -> None:
        """Forget what it has done; what was told stays told."""
        track = self.track
        track.forwards = track.work = track.total = 0
        track.steps.clear()
        self.again, self.frames = self.frames + self.again, 0

    @property
    def told(self) -> bool:
        """Whether the host must look at its tokens at every step."""
        return self.request.deltas or bool(self.track.settings.stop and self.track.tokenizer)


@dataclass(frozen=True)
class SequenceOutcome:
    """What a step did to a member. last: it is complete; error: why it failed, and must leave."""

    member: Member
    update: Update
    last: bool = False
    error: DkvError | None = None


class RunningBatch:
    """Members of one kind. memory: their buffers, None while there are no members. limits: of calls of policies and
    decoders. On several ranks a forward that fails stops them all: the others wait in it."""

    def __init__(self, model: Model, kind: BatchKey, bucket: Bucket, limits: CallLimits) -> None:
        self._model, self._kind, self._bucket, self._limits = model, kind, bucket, limits
        self._each = 2 if kind.guided else 1
        self._state: State | None = None
        self.memory: KVCache | None = None
        self.members: list[Member] = []

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers held."""
        return 0 if self.memory is None else self.memory.nbytes

    @property
    def size(self) -> tuple[int, int]:
        """How many members the buffers can hold, and how long ones."""
        if self.memory is None:
            return 0, 0
        rows, width = self.memory.computed_at.shape
        return int(rows) // self._each, int(width)

    def cost(self, width: int) -> int:
        """Bytes of buffers for a member of so many positions."""
        buffers = [buffer for layer in self._empty(width).layers for buffer in layer.buffers.values()]
        return self._each * sum(math.prod(b.shape[1:]) * b.element_size() for b in buffers)

    def resize(self, members: int, width: int) -> None:
        """Buffers for so many members, which all that are in it must fit. Layer by layer, so that old and new buffers
        are never held both; where that fails, `memory` is None, and the members are to be begun again."""
        rows = None if self._state is None else Rows.of(self._state)
        old, self._state, self.memory = self.memory, None, None  # its views would keep the old buffers alive
        new, used = self._empty(width), len(self.members) * self._each
        for number, layer in enumerate(new.layers):
            for name, empty in layer.buffers.items():
                layer.buffers[name] = empty.new_zeros((members * self._each, *empty.shape[1:]))
                if old is not None and used:
                    before = old.layers[number].buffers.pop(name)
                    held = min(before.shape[2], empty.shape[2]) - 1
                    layer.buffers[name][:used, :, :held] = before[:used, :, :held]
        new.computed_at = torch.full((members * self._each, width), NEVER, device=self._model.device)
        self.memory = new
        if rows is not None:
            self._state = self._state_of(self.members, rows, self._part(rows))

    def _empty(self, width: int) -> KVCache:
        """A memory of no rows, for the shapes of its buffers."""
        memory = self._model.new_kv_cache(0, width, self._kind.dtype)
        memory.keep(self._kind.buffers, self._model.config.width)
        return memory

    def join(self, members: Sequence[Member]) -> list[SequenceOutcome]:
        """Take new members in; there must be room. Those that cannot begin, and why."""
        new, failed = list[Rows](), list[SequenceOutcome]()
        joining = list[Member]()
        for member in members:
            try:
                new.append(self._begin(member))
                joining.append(member)
            except BaseException as error:
                failed.append(self._failed(member, "the request", error))
        if joining:
            everyone = [*self.members, *joining]
            width = max(member.length for member in everyone)
            first, *rest = new if self._state is None else [Rows.of(self._state), *new]
            rows = first.join(rest, width)
            self._state = self._state_of(everyone, rows, self._part(rows))
            self.members = everyone
        return failed

    def restart(self) -> list[SequenceOutcome]:
        """Begin all members again, in the buffers that there are. Those that cannot begin leave, and why."""
        members, self.members, self._state = self.members, [], None
        for member in members:
            member.restart()
        return self.join(members)

    def _failed(self, member: Member, what: str, error: BaseException) -> SequenceOutcome:
        """A member that `error` ends; raised again where it ends everything."""
        if must_stop(error, self._model.device):
            raise error
        return SequenceOutcome(member, Update(member.request_id), error=failure(what, error))

    def leave(self, tickets: set[int]) -> None:
        """Let members go, if they are here; the last ones take their places."""
        leaving = [n for n, member in enumerate(self.members) if member.request_id in tickets]
        if not leaving:
            return
        if self._state is None or self.memory is None or len(leaving) == len(self.members):
            self.members = [member for member in self.members if member.request_id not in tickets]
            self._state = self.memory = None
            return
        order = list(range(len(self.members)))
        for place in leaving[::-1]:
            last, end = order.pop(), len(order)
            for part in range(self._each):
                self.memory.clear(place * self._each + part)
                if place < end:
                    length = self.members[last].length
                    self.memory.move(end * self._each + part, place * self._each + part, length)
                    self.memory.clear(end * self._each + part)
            if place < end:
                order[place] = last
        self.members = [self.members[n] for n in order]
        rows = [n * self._each + part for n in order for part in range(self._each)]
        left = Rows.of(self._state).take(rows, max(member.length for member in self.members))
        self._state = self._state_of(self.members, left, self._part(left))

    def step(self) -> list[SequenceOutcome]:
        """One denoising step of every member: what it did to each. Raises what ends them all."""
        state = self._state
        if state is None:
            return [SequenceOutcome(member, Update(member.request_id), last=True) for member in self.members]
        before = Rows.of(state)
        try:
            return self._outcomes(state, self.members)
        except BaseException as error:
            # On several ranks the others wait in this very forward.
            if self._limits.agree is not None or must_stop(error, self._model.device):
                raise
            if isinstance(error, OvertimeError):  # alone each would take as long
                return [self._failed(member, "its layer rule", error) for member in self.members]
            error.__traceback__ = None  # its frames hold what the forward had made
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._singly(before)

    def _outcomes(self, state: State, members: Sequence[Member]) -> list[SequenceOutcome]:
        """A step of a state with such members. Raises whatever goes wrong with all."""
        tick = self._advanced(state)
        if tick is None:
            return [SequenceOutcome(member, Update(member.request_id), last=True) for member in members]
        for n, member in enumerate(members):
            rows = slice(n * self._each, (n + 1) * self._each)
            member.track.note(tick.counts[rows.start], sum(tick.work[rows]), sum(tick.lengths[rows]))
        faults = (
            dict(state.policy.calls.faults)
            if isinstance(state.policy, PerSequencePolicy) and state.policy.calls
            else {}
        )
        self._trace(state, tick, members)
        told = self._settled(state, members, faults)
        flags: list[bool] = torch.cat((state.done, state.broken)).tolist()
        batch, outcomes = len(flags) // 2, list[SequenceOutcome]()
        for n, member in enumerate(members):
            if flags[batch + n * self._each]:
                faults.setdefault(n, not_finite(self._model.dtype))
            done = flags[n * self._each]
            if n not in faults:
                try:
                    update = self._update(state, tick, n, member, told[n], done)
                    outcomes.append(SequenceOutcome(member, update, done))
                    continue
                except BaseException as error:
                    faults[n] = self._failed(member, "telling what a step did", error).error or RequestError("failed")
            outcomes.append(SequenceOutcome(member, Update(member.request_id), error=faults[n]))
        return outcomes

    def _advanced(self, state: State) -> StepOutput | None:
        """A step, of bounded time where layers follow another package's rules."""
        return bounded(lambda: advance(state), None if self._kind.is_own else self._limits.seconds)

    def _singly(self, before: Rows) -> list[SequenceOutcome]:
        """The step of each member alone, from where `before` stands, once that of all together has failed."""
        outcomes, parts = list[SequenceOutcome](), list[Rows]()
        for n, member in enumerate(self.members):
            rows = before.take(range(n * self._each, (n + 1) * self._each), before.tokens.shape[1])
            if self.memory is None:
                raise RuntimeError("a cohort without buffers has no state")
            memory = self.memory.part(self._each, before.tokens.shape[1], n * self._each)
            try:
                state = self._state_of([member], rows, memory)
                if not self._kind.rules.dense:  # only to see who is at fault
                    self._advanced(state)
                    continue
                outcomes += self._outcomes(state, [member])
                parts.append(Rows.of(state))
            except BaseException as error:
                outcomes.append(self._failed(member, "a step of it", error))
                parts.append(rows)
        if not self._kind.rules.dense:
            return self._begun_again(outcomes)
        whole = parts[0].join(parts[1:], before.tokens.shape[1])
        self._state = self._state_of(self.members, whole, self._part(whole))
        return _largest_only(outcomes)

    def _begun_again(self, failed: list[SequenceOutcome]) -> list[SequenceOutcome]:
        """Of rules that look at what slots held: members that are not at fault begin again. Where none is, the newest
        goes, for what fails without a fault may do so for ever."""
        failed = [outcome for outcome in _largest_only(failed) if outcome.error is not None]
        if not failed:
            newest = max(self.members, key=lambda member: member.request_id)
            error = RequestError("a step of it failed in company, and again alone it did not; ask again")
            failed = [SequenceOutcome(newest, Update(newest.request_id), error=error)]
        gone = {outcome.member.request_id for outcome in failed}
        self.members, everyone = [m for m in self.members if m.request_id not in gone], self.members
        begun = self.restart() if self.members else []
        self.members += [member for member in everyone if member.request_id in gone]  # to leave with the others
        told = {outcome.member.request_id for outcome in (*failed, *begun)}
        return [
            *failed,
            *begun,
            *(SequenceOutcome(m, Update(m.request_id)) for m in everyone if m.request_id not in told),
        ]

    def response(self, member: Member) -> list[int]:
        """The response of a member, as it stands. Raises RequestError where its decoder left some of it undecided."""
        if self._state is None:
            return []
        row = self._each * next(place for place, one in enumerate(self.members) if one is member)
        canvas, own = self._state.canvas, member.track.response
        ids, unfixed = torch.stack((canvas.tokens[row, own], canvas.unfixed[row, own].long())).tolist()
        if any(unfixed):
            raise RequestError(
                f"decoder={name_of(member.track.settings.decoder)!r} left {sum(unfixed)} of {len(ids)} positions "
                "undecided when the steps were over"
            )
        return list(ids)

    def _part(self, rows: Rows) -> KVCache:
        """The buffers of all members, as wide as `rows`."""
        if self.memory is None:
            raise RuntimeError("a cohort without buffers has no state")
        batch, width = rows.tokens.shape
        return self.memory.part(batch, width)

    def _begin(self, member: Member) -> Rows:
        request, config = member.request, self._model.config
        canvas = lay_out(
            [request.prompt],
            request.settings.gen_length,
            config.mask_id,
            [request.seed],
            self._model.device,
            request.number,
            self._kind.guided,
            [request.given],
        )
        decoder = member.decoder
        if is_own(decoder):
            return Rows.new(canvas, decoder.commit_order(canvas))
        rank = bounded(lambda: decoder.commit_order(canvas_copy(canvas)), self._limits.seconds)
        shape, device = tuple(canvas.tokens.shape), canvas.tokens.device
        return Rows.new(canvas, checked(rank, f"decoder={name_of(decoder)!r}: rank", shape, torch.int64, device))

    def _state_of(self, members: Sequence[Member], rows: Rows, memory: KVCache) -> State:
        """A state of such members in their order, standing where `rows` stand."""
        device, each = self._model.device, self._each
        settings = [member.track.settings for member in members for _ in range(each)]
        canvas = self._canvas(members, rows)
        calls = PolicyCalls(each, len(members), self._kind.rules, self._limits)
        decoders, deciding = numbered([member.decoder for member in members for _ in range(each)])
        policies, planning = numbered([member.policy for member in members for _ in range(each)])

        def each_of(values: list[int] | list[bool] | list[float]) -> Tensor:
            return torch.tensor(values, device=device)

        depths = [member.notes for member in members for _ in range(each)]
        fills = [not s.stop_at_eos for s in settings]
        state = State(
            model=self._model,
            canvas=canvas,
            memory=memory,
            policy=PerSequencePolicy(policies, each_of(planning), calls),
            decoder=PerSequenceDecoder(
                decoders,
                each_of(deciding),
                rows.order,
                calls,
                tuple(depths[deciding.index(number)] for number in range(len(decoders))),
            ),
            sampling=sampling_of(settings, self._model.config.vocab, device),
            schedule=Schedule(
                block_length=each_of([s.block_length for s in settings]),
                blocks=each_of([s.blocks for s in settings]),
                steps=each_of([s.steps // s.blocks for s in settings]),
                adaptive=each_of([m.adaptive for m in members for _ in range(each)]),
                grows=each_of([s.grow for s in settings]) if any(s.grow for s in settings) else None,
            ),
            stop_ids=members[0].track.stop_ids,
            fills=each_of(fills) if any(fills) else None,
            logits_processors=logits_processors_of(settings, canvas.prompt, members[0].track.stop_ids),
            bucket=self._bucket,
            guidance=Guidance(canvas, each_of([s.cfg_scale for s in settings]).float()) if self._kind.guided else None,
            audit=self._limits.audit,
        )
        rows.put_into(state)
        return state

    def _canvas(self, every: Sequence[Member], rows: Rows) -> Canvas:
        device, each = self._model.device, self._each
        members = [member for member in every for _ in range(each)]
        width = rows.tokens.shape[1]

        def each_of(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        prompt, length = each_of([len(m.track.prompt) for m in members]), each_of([m.length for m in members])
        position = torch.arange(width, device=device)
        live, end = position < length[:, None], prompt + each_of([m.track.settings.gen_length for m in members])
        guide = each_of([row - 1 if row % 2 else -1 for row in range(len(members))]) if self._kind.guided else None
        return Canvas(
            tokens=rows.tokens,
            prompt=prompt,
            length=length,
            committed_at=rows.committed_at,
            seed=each_of([m.request.seed for m in members]),
            request=each_of([m.request.number for m in members]),
            position=position,
            live=live,
            response=(position >= prompt[:, None]) & (position < end[:, None]),
            unconditional_of=guide,
        )

    def _trace(self, state: State, tick: StepOutput, members: Sequence[Member]) -> None:
        if not any(member.request.trace for member in members):
            return
        fixed = tick.committed.nonzero().tolist()
        for n, member in enumerate(members):
            if member.request.trace:
                row = n * self._each
                member.track.fix([p for r, p in fixed if r == row], state.canvas.tokens[row])

    def _settled(self, state: State, members: Sequence[Member], faults: dict[int, DkvError]) -> list[list[int] | None]:
        """The final beginning of each response that the host must look at; ends those that hold a stop text. One whose
        text cannot be had is at fault."""
        if not any(member.told for member in members):
            return [None] * len(members)
        tokens, unfixed = state.canvas.tokens.tolist(), state.canvas.unfixed.tolist()
        ended = [False] * len(tokens)
        settled: list[list[int] | None] = []
        for n, member in enumerate(members):
            row = n * self._each
            known = member.track.settled(tokens[row], unfixed[row])
            settled.append(known)
            try:
                ended[row] = member.track.find_stop(known) is not None
            except BaseException as error:
                faults[n] = self._failed(member, "looking for a stop text", error).error or RequestError("failed")
        if any(ended):
            finish(state, torch.tensor(ended, device=state.done.device) & ~state.done)
        return settled

    def _update(
        self, state: State, tick: StepOutput, place: int, member: Member, settled: list[int] | None, done: bool
    ) -> Update:
        frame = None
        if member.request.frames and member.again:  # it was told before it began again
            member.again -= 1
        elif member.request.frames:
            frame = frame_of(state, tick, place * self._each, member.track)
            member.frames += 1
        ids, text = ((), "") if done or settled is None else member.deltas.grow(settled)
        return Update(member.request_id, ids, text, frame)


def _largest_only(outcomes: list[SequenceOutcome]) -> list[SequenceOutcome]:
    """Of those that found no memory, the longest fails, of equals the newest; the others try again at the next step."""
    short = {o.member.request_id: o.member for o in outcomes if o.error is not None and _no_memory(o.error)}
    worst = max(short.values(), key=lambda member: (member.length, member.request_id), default=None)
    return [
        SequenceOutcome(o.member, Update(o.member.request_id))
        if o.member.request_id in short and o.member is not worst
        else o
        for o in outcomes
    ]


def _no_memory(error: DkvError) -> bool:
    return is_memory(RuntimeError(str(error))) or "MemoryError" in str(error)
