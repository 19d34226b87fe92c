"""Several policies and several decoders at once, each for its own sequences of one batch, and how they are called.

Policies and decoders treat each sequence on its own, so each may see the whole batch; what it answers for the
sequences of others is dropped. That is what lets unlike requests share a forward.

A call that fails is made once more for each of its sequences alone, which shows whose fault it was, and all others of
the step get what they would have got. Code of other packages sees copies, has a bounded time, and gets back nothing but
what it said of its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor

from dkv.core.canvas import Canvas
from dkv.core.layer_rules import Rules
from dkv.core.policy import CachePolicy, Decoder, Plan, StatefulDecoder, Step
from dkv.core.registry import alike, is_own, name_of
from dkv.core.sampling import Predictions
from dkv.engine.request_errors import failure, must_stop
from dkv.engine.step_views import checked, checked_plan, read_copy, read_of, step_copy, step_of
from dkv.engine.watchdog import OvertimeError, bounded
from dkv.errors import DkvError, RequestError

__all__ = ["Agree", "CallLimits", "PerSequenceDecoder", "PerSequencePolicy", "PolicyCalls", "alike_rules"]

T = TypeVar("T")

Agree = Callable[[int], int]
"""Of what each rank found (0: nothing wrong), the worst, on every rank."""

_FINE, _FAILED, _OVERTIME = range(3)


@dataclass(frozen=True)
class CallLimits:
    """Bounds of calls into other packages' code."""

    seconds: float | None = None
    """That a call may take, None = any."""
    agree: Agree | None = None
    """On several ranks: whether a call failed on any of them."""
    audit: bool = False
    """What breaks the contract is left for the audit to find."""


@dataclass(frozen=True)
class _Failed:
    """Why a call failed, and whether a second one would take as long."""

    error: DkvError
    overtime: bool


@dataclass(frozen=True, eq=False)
class PolicyCalls:
    """How the policies and decoders of one batch are called."""

    each: int
    """Rows of a sequence."""
    sequences: int
    """How many there are."""
    rules: Rules | None = None
    """Of every layer, None = not known."""
    limits: CallLimits = field(default_factory=CallLimits)
    faults: dict[int, DkvError] = field(default_factory=dict)
    """Why sequences failed, by their place in the batch."""

    def answer(
        self,
        thing: object,
        what: str,
        places: Sequence[int],
        whole: Callable[[], T],
        alone: Callable[[list[int]], T],
        join: Callable[[list[tuple[list[int], T]]], T],
    ) -> T:
        """What `whole` gives. Where it fails, `join` of what `alone` gives for the rows of each sequence in `places`;
        those for which that fails too are at fault. thing: the policy or decoder that is called; what: the call in
        words, with {} for its name."""
        found = self._tried(thing, what, whole)
        if not isinstance(found, _Failed):
            return found
        answers = []
        for place in places:
            rows = [place * self.each + part for part in range(self.each)]
            again: T | _Failed = found
            if self.sequences > 1 and not found.overtime:
                again = self._tried(thing, what, lambda rows=rows: alone(rows))  # type: ignore[misc]
            if isinstance(again, _Failed):
                self.faults.setdefault(place, again.error)
            else:
                answers.append((rows, again))
        return join(answers)

    def _tried(self, thing: object, what: str, call: Callable[[], T]) -> T | _Failed:
        """What a call gives, or why it failed, here or on another rank."""
        own, result, error, found = is_own(thing), None, None, _FINE
        try:
            result = call() if own else bounded(call, self.limits.seconds)
        except BaseException as raised:
            if must_stop(raised, torch.device("cpu")):
                raise
            found = _OVERTIME if isinstance(raised, OvertimeError) else _FAILED
            error = failure(what.format(repr(name_of(thing))), raised)
        if not own and self.limits.agree is not None:
            found = self.limits.agree(found)
        if found == _FINE:
            return result  # type: ignore[return-value]
        elsewhere = RequestError(f"{what.format(repr(name_of(thing)))} failed on another rank")
        return _Failed(error or elsewhere, found == _OVERTIME)


class _PerSequence(Generic[T]):
    """Objects, each for its own rows [B] of a batch."""

    def __init__(self, things: Sequence[T], calls: PolicyCalls, device: torch.device) -> None:
        """things: of each row its own."""
        self.calls = calls
        distinct, ids = {id(thing): thing for thing in things}, [id(thing) for thing in things]
        numbers = {one: number for number, one in enumerate(distinct)}
        self._which = torch.tensor([numbers[one] for one in ids], device=device)
        places = [tuple(n for n, other in enumerate(ids[:: calls.each]) if other == one) for one in distinct]
        self._groups = tuple(zip(distinct.values(), places, strict=True))

    def _own(self, answers: Sequence[Tensor], which: Tensor | None = None) -> Tensor:
        """Of the objects' answers [B, ...], each row's by its own object; which: the object of each entry, None = of
        each row."""
        which, result = self._which if which is None else which, answers[0]
        for number, answer in enumerate(answers[1:], 1):
            result = torch.where((which == number).view(-1, *(1,) * (answer.dim() - 1)), answer, result)
        return result


class PerSequencePolicy(_PerSequence[CachePolicy]):
    """The policy of each row [B]. All must plan by the same layer rules."""

    def plan(self, step: Step) -> Plan:
        """Each sequence's plan by its own policy."""
        plans = [self._planned(policy, places, step) for policy, places in self._groups]
        if len(plans) == 1:
            return plans[0]
        parts: dict[str, Tensor] = {}
        for name in _ABSENT:
            each = [getattr(plan, name) for plan in plans]
            if any(part is not None for part in each):
                parts[name] = self._own([_absent(name, step) if part is None else part for part in each])
        return Plan(rows=self._own([plan.rows for plan in plans]), rules=plans[0].rules, **parts)

    def _planned(self, policy: CachePolicy, places: Sequence[int], step: Step) -> Plan:
        own, rules = is_own(policy), self.calls.rules

        def asked(seen: Step) -> Plan:
            plan = policy.plan(seen) if own else checked_plan(policy.plan(step_copy(seen)), seen)
            if rules is None or plan.rules is rules:
                return plan
            if not (isinstance(plan.rules, Rules) and alike_rules(plan.rules, rules)):
                raise RequestError(
                    f"cache={name_of(policy)!r} changed its layer rules on the way; requests that share a forward "
                    "cannot; give the same ones as in its attribute `rules`"
                )
            return replace(plan, rules=rules)

        return self.calls.answer(
            policy,
            "cache={}: plan",
            places,
            lambda: asked(step),
            lambda rows: asked(step_of(step, rows)),
            lambda parts: _joined_plan(parts, step, rules),
        )


class PerSequenceDecoder(_PerSequence[Decoder]):
    """The decoder of each row [B]. When a block ends is a matter of each sequence's schedule."""

    adaptive: ClassVar[bool] = True

    def __init__(self, decoders: Sequence[Decoder], sizes: Sequence[int], order: Tensor, calls: PolicyCalls) -> None:
        """sizes: how many numbers of each position each row's decoder keeps; order [B, T]: the commit order that each
        gave when its sequence joined."""
        super().__init__(decoders, calls, order.device)
        self._order, self.state_size = order, max(sizes)
        self._sizes = dict(zip(map(id, decoders), sizes, strict=True))

    def commit_order(self, canvas: Canvas) -> Tensor:
        """As known from the start of each sequence."""
        return self._order

    def query(self, step: Step) -> Tensor:
        """What each sequence's decoder would read."""
        return self._own([self._queried(decoder, places, step) for decoder, places in self._groups])

    def _queried(self, decoder: Decoder, places: Sequence[int], step: Step) -> Tensor:
        own = is_own(decoder)

        def asked(seen: Step) -> Tensor:
            return decoder.query(seen) if own else _mask("query", decoder.query(step_copy(seen)), seen)

        answer = self.calls.answer(
            decoder,
            "decoder={}: query",
            places,
            lambda: asked(step),
            lambda rows: asked(step_of(step, rows)),
            lambda parts: _joined_mask(parts, step),
        )
        return answer if own else answer & step.masked

    def commit(self, step: Step, read: Predictions) -> Tensor:
        """What each sequence's decoder fixes."""
        return self._own([self._committed(decoder, places, step, read) for decoder, places in self._groups])

    def _committed(self, decoder: Decoder, places: Sequence[int], step: Step, read: Predictions) -> Tensor:
        own = is_own(decoder)

        def asked(seen: Step, read: Predictions) -> Tensor:
            if own:
                return decoder.commit(seen, read)
            return _mask("commit", decoder.commit(step_copy(seen), read_copy(read)), seen)

        answer = self.calls.answer(
            decoder,
            "decoder={}: commit",
            places,
            lambda: asked(step, read),
            lambda rows: asked(step_of(step, rows), read_of(read, rows)[0]),
            lambda parts: _joined_mask(parts, step),
        )
        return answer if own or self.calls.limits.audit else answer & step.query

    def update_state(self, step: Step, read: Predictions) -> Tensor:
        """What each sequence's decoder keeps, and zeros up to the most."""
        answers = []
        for decoder, places in self._groups:
            size = self._sizes[id(decoder)]
            kept = self._kept(cast("StatefulDecoder", decoder), size, places, step, read) if size else None
            zeros = torch.zeros(len(read.flat), self.state_size - size, device=read.flat.device)
            answers.append(zeros if kept is None else torch.cat((kept, zeros), dim=1))
        return self._own(answers, self._which[read.flat // read.shape[1]])

    def _kept(
        self, decoder: StatefulDecoder, size: int, places: Sequence[int], step: Step, read: Predictions
    ) -> Tensor:
        own = is_own(decoder)

        def asked(seen: Step, read: Predictions) -> Tensor:
            given = (seen, read) if own else (step_copy(seen), read_copy(read))
            shape = (len(read.flat), size)
            return checked(decoder.update_state(*given), "update_state", shape, torch.float32, read.flat.device)

        def joined(parts: list[tuple[list[int], Tensor]]) -> Tensor:
            answer = torch.zeros(len(read.flat), size, device=read.flat.device)
            for rows, part in parts:
                answer[read_of(read, rows)[1]] = part
            return answer

        return self.calls.answer(
            decoder,
            "decoder={}: update_state",
            places,
            lambda: asked(step, read),
            lambda rows: asked(step_of(step, rows), read_of(read, rows)[0]),
            joined,
        )


def _mask(name: str, value: object, step: Step) -> Tensor:
    live = step.canvas.live
    return checked(value, name, tuple(live.shape), torch.bool, live.device)


def _joined_mask(parts: list[tuple[list[int], Tensor]], step: Step) -> Tensor:
    """A mask [B, T] of parts, each of some rows; nothing elsewhere."""
    answer = torch.zeros_like(step.canvas.live)
    for rows, mask in parts:
        answer[rows] = mask
    return answer


_ABSENT = {
    "visible": True, "query": True, "skip_unconditional": False, "forced": False, "frozen": False,
    "budget": 0, "commits": False,
}  # fmt: skip
"""What a plan's part says of a sequence where it is None."""


def _absent(name: str, step: Step) -> Tensor:
    """What stands for a plan's part that is None."""
    like = step.canvas.prompt if name in ("skip_unconditional", "budget") else step.canvas.tokens
    return torch.full_like(like, _ABSENT[name], dtype=torch.int64 if name == "budget" else torch.bool)


def _joined_plan(parts: list[tuple[list[int], Plan]], step: Step, rules: Rules | None) -> Plan:
    """A plan of parts, each of some rows. Elsewhere nothing is lacking: all is computed, by every layer."""
    live = step.canvas.live
    whole = Plan(live.clone()) if rules is None else Plan(live.clone(), rules=rules, forced=live.clone())
    for rows, part in parts:
        values: dict[str, Any] = {}
        for name in _ABSENT:
            old, new = getattr(whole, name), getattr(part, name)
            if old is not None or new is not None:
                values[name] = _absent(name, step) if old is None else old
                values[name][rows] = _ABSENT[name] if new is None else new
        whole = replace(whole, **values)
        whole.rows[rows] = part.rows
    return whole


def alike_rules(one: Rules, other: Rules) -> bool:
    """`alike` for the rules of all layers."""
    return one is other or (alike(one.first, other.first) and alike(one.rest, other.rest))
