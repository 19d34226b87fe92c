"""Requests that share forwards: one batch whose members change between steps.

Its rows stay packed: the last one moves into the place of one that leaves, and every step sees only the rows in use,
as wide as the longest of them. So what is computed follows the requests at hand, not the size of the buffers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dkv.canvas import NEVER, Canvas, lay_out
from dkv.denoise import Schedule, State, Tick, advance, finish
from dkv.engine.deltas import Deltas
from dkv.engine.mixed import MixedDecoder, MixedPolicy, numbered
from dkv.engine.request import Request, Update
from dkv.engine.rows import Rows
from dkv.generation import endings_of, frame_of, sampling_of
from dkv.guidance import Guidance
from dkv.memory import Memory
from dkv.model import Model
from dkv.place import Bucket
from dkv.rules import Rules
from dkv.track import Track

__all__ = ["Cohort", "Kind", "Member"]


@dataclass(frozen=True)
class Kind:
    """What requests must have in common to share forwards and buffers. width: slots of a sequence, 0 = as many as the
    longest needs; rules: of the layers; guided: with a guide row each; dtype: of the cache."""

    width: int
    rules: Rules
    guided: bool
    dtype: torch.dtype


@dataclass
class Member:
    """A request on its way. It takes one row, or two if guided."""

    ticket: int
    request: Request
    track: Track

    def __post_init__(self) -> None:
        self.deltas = Deltas(self.track)

    @property
    def length(self) -> int:
        """Positions of prompt, response and what follows it."""
        return self.request.length

    @property
    def adaptive(self) -> bool:
        """Whether a block ends as soon as it is complete; one with given tokens has fewer to fix than steps."""
        return self.track.settings.decoder.adaptive or bool(self.request.given)

    @property
    def told(self) -> bool:
        """Whether the host must look at its tokens at every step."""
        return self.request.deltas or bool(self.track.settings.stop and self.track.tokenizer)


class Cohort:
    """Members of one kind. memory: their buffers, None while there are no members."""

    def __init__(self, model: Model, kind: Kind, bucket: Bucket, audit: bool = False) -> None:
        self._model, self._kind, self._bucket, self._audit = model, kind, bucket, audit
        self._each = 2 if kind.guided else 1
        self._state: State | None = None
        self.memory: Memory | None = None
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
        are never held both."""
        rows = None if self._state is None else Rows.of(self._state)
        self._state = None  # its views would keep the old buffers alive
        old, new, used = self.memory, self._empty(width), len(self.members) * self._each
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
            self._rebuild(rows)

    def _empty(self, width: int) -> Memory:
        """A memory of no rows, for the shapes of its buffers."""
        memory = self._model.remember(0, width, self._kind.dtype)
        memory.keep(self._kind.rules, self._model.config.width)
        return memory

    def join(self, members: Sequence[Member]) -> None:
        """Take new members in; there must be room."""
        new = [self._begin(member) for member in members]
        self.members += members
        width = max(member.length for member in self.members)
        first, *rest = new if self._state is None else [Rows.of(self._state), *new]
        self._rebuild(first.join(rest, width))

    def leave(self, tickets: set[int]) -> None:
        """Let members go, if they are here; the last ones take their places."""
        leaving = [n for n, member in enumerate(self.members) if member.ticket in tickets]
        if self._state is None or self.memory is None or not leaving:
            return
        order = list(range(len(self.members)))
        for place in leaving[::-1]:
            last = order.pop()
            if place < len(order):
                order[place] = last
                for part in range(self._each):
                    length = self.members[last].length
                    self.memory.move(last * self._each + part, place * self._each + part, length)
        self.members = [self.members[n] for n in order]
        if not self.members:
            self._state = self.memory = None
            return
        rows = [n * self._each + part for n in order for part in range(self._each)]
        self._rebuild(Rows.of(self._state).take(rows, max(member.length for member in self.members)))

    def step(self) -> list[tuple[Member, Update, bool]]:
        """One denoising step of every member: what it did to each, and whether that was the member's last."""
        state = self._state
        tick = None if state is None else advance(state)
        if state is None or tick is None:
            return [(member, Update(member.ticket), True) for member in self.members]
        for n, member in enumerate(self.members):
            rows = slice(n * self._each, (n + 1) * self._each)
            member.track.note(tick.counts[rows.start], sum(tick.work[rows]), sum(tick.lengths[rows]))
        self._trace(state, tick)
        told = self._settled(state)
        done: list[bool] = state.done.tolist()
        return [
            (member, self._update(state, tick, n, told[n], done[n * self._each]), done[n * self._each])
            for n, member in enumerate(self.members)
        ]

    def response(self, place: int) -> list[int]:
        """The response of a member, as it stands."""
        if self._state is None:
            return []
        row = self._state.canvas.tokens[place * self._each, self.members[place].track.response]
        ids: list[int] = row.tolist()
        return ids

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
        return Rows.new(canvas, request.settings.decoder.rank(canvas))

    def _rebuild(self, rows: Rows) -> None:
        """A state of the members in their order, standing where `rows` stand."""
        if self.memory is None:
            raise RuntimeError("a cohort without buffers has no state")
        device, each = self._model.device, self._each
        settings = [member.track.settings for member in self.members for _ in range(each)]
        canvas = self._canvas(rows)
        batch, width = canvas.tokens.shape
        decoders, deciding = numbered([s.decoder for s in settings])
        policies, planning = numbered([s.cache for s in settings])

        def each_of(values: list[int] | list[bool] | list[float]) -> Tensor:
            return torch.tensor(values, device=device)

        fills = [not s.stop_at_eos for s in settings]
        self._state = State(
            model=self._model,
            canvas=canvas,
            memory=self.memory.part(batch, width),
            policy=MixedPolicy(policies, each_of(planning)),
            decoder=MixedDecoder(decoders, each_of(deciding), rows.rank),
            sampling=sampling_of(settings, self._model.config.vocab, device),
            schedule=Schedule(
                block_length=each_of([s.block_length for s in settings]),
                blocks=each_of([s.blocks for s in settings]),
                steps=each_of([s.steps // s.blocks for s in settings]),
                adaptive=each_of([m.adaptive for m in self.members for _ in range(each)]),
                grows=each_of([s.grow for s in settings]) if any(s.grow for s in settings) else None,
            ),
            stop_ids=self.members[0].track.stop_ids,
            fills=each_of(fills) if any(fills) else None,
            endings=endings_of(settings, canvas.prompt, self.members[0].track.stop_ids),
            bucket=self._bucket,
            guidance=Guidance(canvas, each_of([s.cfg_scale for s in settings]).float()) if self._kind.guided else None,
            audit=self._audit,
        )
        rows.put_into(self._state)

    def _canvas(self, rows: Rows) -> Canvas:
        device, each = self._model.device, self._each
        members = [member for member in self.members for _ in range(each)]
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
            guide=guide,
        )

    def _trace(self, state: State, tick: Tick) -> None:
        if not any(member.request.trace for member in self.members):
            return
        fixed = tick.committed.nonzero().tolist()
        for n, member in enumerate(self.members):
            if member.request.trace:
                row = n * self._each
                member.track.fix([p for r, p in fixed if r == row], state.canvas.tokens[row])

    def _settled(self, state: State) -> list[list[int] | None]:
        """The final beginning of each response that the host must look at; ends those that hold a stop text."""
        if not any(member.told for member in self.members):
            return [None] * len(self.members)
        tokens, unfixed = state.canvas.tokens.tolist(), state.canvas.unfixed.tolist()
        ended = torch.zeros_like(state.done)
        settled: list[list[int] | None] = []
        for n, member in enumerate(self.members):
            row = n * self._each
            known = member.track.settled(tokens[row], unfixed[row])
            settled.append(known)
            ended[row] = member.track.find_stop(known) is not None
        finish(state, ended & ~state.done)
        return settled

    def _update(self, state: State, tick: Tick, place: int, settled: list[int] | None, done: bool) -> Update:
        member = self.members[place]
        frame = frame_of(state, tick, place * self._each, member.track) if member.request.frames else None
        ids, text = ((), "") if done or settled is None else member.deltas.grow(settled)
        return Update(member.ticket, ids, text, frame)
