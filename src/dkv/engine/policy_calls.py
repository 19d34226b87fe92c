"""Calls of policies and decoders, each for its own members of a batch: what fails is answered for, and its members are
named, so that all others of the step get what they would have got.

A failed call is made once more for each of its members alone, which shows whose fault it was. Code of other packages
sees copies, has a bounded time, and gets back nothing but what it said of its own rows.

Which policies, decoders and layer rules are the same one, so that their requests can be asked together, is asked once,
when a request comes, in bounded time: equality may be another package's code. From then on what is the same is one
object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from dkv.core.layer_rules import Rules
from dkv.core.policy import CachePolicy, Decoder, Plan, StatefulDecoder, Step
from dkv.core.sampling import Predictions
from dkv.engine.request_errors import failure, is_own, must_stop, name_of
from dkv.engine.step_views import checked, checked_plan, read_copy, read_of, step_copy, step_of
from dkv.engine.watchdog import OvertimeError, bounded
from dkv.errors import DkvError, RequestError

__all__ = ["Agree", "CallLimits", "PolicyCalls", "alike", "alike_rules", "first_alike", "first_alike_rules"]

T = TypeVar("T")

Agree = Callable[[int], int]
"""Of what each rank found (0: nothing wrong), the worst, on every rank."""

_FINE, _FAILED, _OVERTIME = range(3)


@dataclass(frozen=True)
class CallLimits:
    """seconds: that a call into another package's code may take, None = any; agree: on several ranks, whether it
    failed on any of them; audit: what breaks the contract is left for the audit to find."""

    seconds: float | None = None
    agree: Agree | None = None
    audit: bool = False


@dataclass(frozen=True)
class _Failed:
    """Why a call failed, and whether a second one would take as long."""

    error: DkvError
    overtime: bool


@dataclass(frozen=True, eq=False)
class PolicyCalls:
    """The calls of one batch. each: rows of a member; members: how many; rules: of every layer, None = not known.
    faults: why members failed, by their place."""

    each: int
    members: int
    rules: Rules | None = None
    limits: CallLimits = field(default_factory=CallLimits)
    faults: dict[int, DkvError] = field(default_factory=dict)

    def plan(self, policy: CachePolicy, places: Sequence[int], step: Step) -> Plan:
        """A policy's plan [B, T], where `places` are its members."""
        own = is_own(policy)

        def asked(seen: Step) -> Plan:
            plan = policy.plan(seen) if own else checked_plan(policy.plan(step_copy(seen)), seen)
            if self.rules is None or plan.rules is self.rules:
                return plan
            if not (isinstance(plan.rules, Rules) and alike_rules(plan.rules, self.rules)):
                raise RequestError(
                    f"cache={name_of(policy)!r} changed its layer rules on the way; requests that share a forward "
                    "cannot; give the same ones as in its attribute `rules`"
                )
            return replace(plan, rules=self.rules)

        what = f"cache={name_of(policy)!r}: plan"
        found = self._whole(what, own, lambda: asked(step))
        if not isinstance(found, _Failed):
            return found
        answer = _everything(step, self.rules)
        for rows, plan in self._apart(what, own, found, places, lambda rows: asked(step_of(step, rows))):
            answer = _with(answer, rows, plan, step)
        return answer

    def wanted(self, decoder: Decoder, places: Sequence[int], step: Step) -> Tensor:
        """What a decoder wants [B, T], where `places` are its members."""
        own = is_own(decoder)

        def asked(seen: Step) -> Tensor:
            return decoder.query(seen) if own else _mask("query", decoder.query(step_copy(seen)), seen)

        what = f"decoder={name_of(decoder)!r}: wanted"
        answer = self._masks(what, own, places, step, lambda: asked(step), lambda rows: asked(step_of(step, rows)))
        return answer if own else answer & step.masked

    def commit(self, decoder: Decoder, places: Sequence[int], step: Step, read: Predictions) -> Tensor:
        """What a decoder fixes [B, T], where `places` are its members."""
        own = is_own(decoder)

        def asked(seen: Step, read: Predictions) -> Tensor:
            if own:
                return decoder.commit(seen, read)
            return _mask("commit", decoder.commit(step_copy(seen), read_copy(read)), seen)

        what = f"decoder={name_of(decoder)!r}: commit"
        answer = self._masks(
            what,
            own,
            places,
            step,
            lambda: asked(step, read),
            lambda rows: asked(step_of(step, rows), read_of(read, rows)[0]),
        )
        return answer if own or self.limits.audit else answer & step.query

    def note(
        self, decoder: StatefulDecoder, depth: int, places: Sequence[int], step: Step, read: Predictions
    ) -> Tensor:
        """What a decoder that keeps `depth` numbers notes [M, depth], where `places` are its members."""
        own = is_own(decoder)

        def asked(seen: Step, read: Predictions) -> Tensor:
            given = (seen, read) if own else (step_copy(seen), read_copy(read))
            shape = (len(read.flat), depth)
            return checked(decoder.update_state(*given), "update_state", shape, torch.float32, read.flat.device)

        what = f"decoder={name_of(decoder)!r}: note"
        found = self._whole(what, own, lambda: asked(step, read))
        if not isinstance(found, _Failed):
            return found
        answer = torch.zeros(len(read.flat), depth, device=read.flat.device)

        def alone(rows: list[int]) -> tuple[Tensor, Tensor]:
            part, entries = read_of(read, rows)
            return asked(step_of(step, rows), part), entries

        for _, (noted, entries) in self._apart(what, own, found, places, alone):
            answer[entries] = noted
        return answer

    def _masks(
        self,
        what: str,
        own: bool,
        places: Sequence[int],
        step: Step,
        whole: Callable[[], Tensor],
        alone: Callable[[list[int]], Tensor],
    ) -> Tensor:
        """A mask [B, T] of all, or of those members for which it can be had."""
        found = self._whole(what, own, whole)
        if not isinstance(found, _Failed):
            return found
        answer = torch.zeros_like(step.canvas.live)
        for rows, mask in self._apart(what, own, found, places, alone):
            answer[rows] = mask
        return answer

    def _whole(self, what: str, own: bool, call: Callable[[], T]) -> T | _Failed:
        """What a call gives, or why it failed, here or on another rank."""
        result, error, found = None, None, _FINE
        try:
            result = call() if own else bounded(call, self.limits.seconds)
        except BaseException as raised:
            if must_stop(raised, torch.device("cpu")):
                raise
            found = _OVERTIME if isinstance(raised, OvertimeError) else _FAILED
            error = failure(what, raised)
        if not own and self.limits.agree is not None:
            found = self.limits.agree(found)
        if found == _FINE:
            return result  # type: ignore[return-value]
        return _Failed(error or RequestError(f"{what} failed on another rank"), found == _OVERTIME)

    def _apart(
        self, what: str, own: bool, failed: _Failed, places: Sequence[int], call: Callable[[list[int]], T]
    ) -> list[tuple[list[int], T]]:
        """The same call for each member alone: the rows and answers of those for which it can be had; the others are
        at fault."""
        answers = []
        for place in places:
            rows = [place * self.each + part for part in range(self.each)]
            again: T | _Failed = failed
            if self.members > 1 and not failed.overtime:
                again = self._whole(what, own, lambda rows=rows: call(rows))  # type: ignore[misc]
            if isinstance(again, _Failed):
                self.faults.setdefault(place, again.error)
            else:
                answers.append((rows, again))
        return answers


def _mask(name: str, value: object, step: Step) -> Tensor:
    live = step.canvas.live
    return checked(value, name, tuple(live.shape), torch.bool, live.device)


def _everything(step: Step, rules: Rules | None) -> Plan:
    """The plan that never lacks anything: all is computed, by every layer."""
    live = step.canvas.live
    return Plan(live) if rules is None else Plan(live, rules=rules, forced=live)


_ABSENT = {
    "visible": True, "query": True, "skip_unconditional": False, "forced": False, "frozen": False,
    "budget": 0, "commits": False,
}  # fmt: skip
"""What a plan's part says of a sequence where it is None."""


def _with(whole: Plan, rows: list[int], part: Plan, step: Step) -> Plan:
    """`whole` with the plan of some rows put into it."""
    values: dict[str, Tensor | None] = {}
    for name, absent in _ABSENT.items():
        old, new = getattr(whole, name), getattr(part, name)
        if old is None and new is None:
            values[name] = None
            continue
        like = step.canvas.prompt if name in ("skip_unconditional", "budget") else step.canvas.tokens
        kind = torch.int64 if name == "budget" else torch.bool
        grid = torch.full_like(like, absent, dtype=kind) if old is None else old.clone()
        grid[rows] = absent if new is None else new
        values[name] = grid
    carried = whole.rows.clone()
    carried[rows] = part.rows
    return Plan(rows=carried, rules=whole.rules, **values)


def alike(one: object, other: object) -> bool:
    """Whether one stands for the other. Another package's class has a say about its own kind only."""
    if one is other or type(one) is not type(other):
        return one is other
    try:
        return (one == other) is True
    except Exception:
        return False


def alike_rules(one: Rules, other: Rules) -> bool:
    """`alike` for the rules of all layers."""
    return one is other or (alike(one.first, other.first) and alike(one.rest, other.rest))


def first_alike(thing: T, known: Iterable[T]) -> T:
    """The first of the known things that is alike, itself where none is."""
    return next((one for one in known if alike(one, thing)), thing)


def first_alike_rules(rules: Rules, known: Iterable[Rules]) -> Rules:
    """`first_alike` for the rules of all layers."""
    return next((one for one in known if alike_rules(one, rules)), rules)
