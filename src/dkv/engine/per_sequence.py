"""Several policies and several decoders at once, each for its own sequences of one batch.

Policies and decoders treat each sequence on its own, so each may see the whole batch; what it answers for the
sequences of others is dropped. That is what lets unlike requests share a forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.canvas import Canvas
from dkv.core.policy import CachePolicy, Decoder, Plan, StatefulDecoder, Step, state_size_of
from dkv.core.sampling import Predictions
from dkv.engine.policy_calls import PolicyCalls

__all__ = ["PerSequenceDecoder", "PerSequencePolicy", "numbered"]

T = TypeVar("T")


def numbered(things: Sequence[T]) -> tuple[tuple[T, ...], list[int]]:
    """The distinct objects in the order of their first place, and for each thing the number of its object."""
    distinct: list[T] = []
    numbers = []
    for thing in things:
        number = next((n for n, known in enumerate(distinct) if known is thing), len(distinct))
        if number == len(distinct):
            distinct.append(thing)
        numbers.append(number)
    return tuple(distinct), numbers


def _own(which: Tensor, answers: Sequence[Tensor]) -> Tensor:
    """Of answers [B, ...], each sequence's from the one that `which` [B] names."""
    result = answers[0]
    for number, answer in enumerate(answers[1:], 1):
        result = torch.where((which == number).view(-1, *(1,) * (answer.dim() - 1)), answer, result)
    return result


def _places(which: Tensor, count: int, calls: PolicyCalls) -> tuple[tuple[int, ...], ...]:
    """The members of each of `count` policies or decoders."""
    numbers = which.tolist()[:: calls.each]
    return tuple(tuple(place for place, own in enumerate(numbers) if own == n) for n in range(count))


@dataclass(frozen=True)
class PerSequencePolicy:
    """policies, and which [B] of them is whose. All must plan by the same layer rules. calls: how they are asked, None
    = each row is a member of its own."""

    policies: tuple[CachePolicy, ...]
    which: Tensor
    calls: PolicyCalls | None = None
    _asked: PolicyCalls = field(init=False, repr=False)
    _whose: tuple[tuple[int, ...], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        asked = self.calls or PolicyCalls(1, len(self.which))
        object.__setattr__(self, "_asked", asked)
        object.__setattr__(self, "_whose", _places(self.which, len(self.policies), asked))

    def plan(self, step: Step) -> Plan:
        """Each sequence's plan by its own policy."""
        plans = [
            self._asked.plan(policy, places, step) for policy, places in zip(self.policies, self._whose, strict=True)
        ]
        if len(plans) == 1:
            return plans[0]
        none, rows = step.canvas.prompt, torch.zeros_like(step.canvas.live)

        def own(part: Callable[[Plan], Tensor | None], absent: Tensor) -> Tensor | None:
            parts = [part(plan) for plan in plans]
            if all(p is None for p in parts):
                return None
            return _own(self.which, [absent if p is None else p for p in parts])

        return Plan(
            rows=_own(self.which, [plan.rows for plan in plans]),
            visible=own(lambda plan: plan.visible, ~rows),
            query=own(lambda plan: plan.query, ~rows),
            skip_unconditional=own(lambda plan: plan.skip_unconditional, torch.zeros_like(none, dtype=torch.bool)),
            rules=plans[0].rules,
            forced=own(lambda plan: plan.forced, rows),
            frozen=own(lambda plan: plan.frozen, rows),
            budget=own(lambda plan: plan.budget, torch.zeros_like(none)),
            commits=own(lambda plan: plan.commits, rows),
        )


@dataclass(frozen=True)
class PerSequenceDecoder:
    """decoders, which [B] of them is whose, and the ranks [B, T] that they gave when their sequences joined. When a
    block ends is a matter of each sequence's schedule here. calls: how they are asked, None = each row is a member of
    its own; depths: how many numbers of each position each keeps, None = as it says."""

    adaptive: ClassVar[bool] = True
    decoders: tuple[Decoder, ...]
    which: Tensor
    ranks: Tensor
    calls: PolicyCalls | None = None
    depths: tuple[int, ...] | None = None
    _asked: PolicyCalls = field(init=False, repr=False)
    _each: tuple[tuple[Decoder, int, tuple[int, ...]], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        asked = self.calls or PolicyCalls(1, len(self.which))
        depths = self.depths or tuple(map(state_size_of, self.decoders))
        whose = _places(self.which, len(self.decoders), asked)
        object.__setattr__(self, "_asked", asked)
        object.__setattr__(self, "_each", tuple(zip(self.decoders, depths, whose, strict=True)))

    @property
    def state_size(self) -> int:
        """As many numbers of each position as the one that keeps the most."""
        return max(depth for _, depth, _ in self._each)

    def update_state(self, step: Step, read: Predictions) -> Tensor:
        """What each sequence's decoder keeps, and zeros up to the most."""
        most, nothing = self.state_size, torch.zeros(len(read.flat), self.state_size, device=read.flat.device)
        answers = [
            F.pad(self._asked.note(cast("StatefulDecoder", decoder), depth, places, step, read), (0, most - depth))
            if depth
            else nothing
            for decoder, depth, places in self._each
        ]
        return _own(self.which[read.flat // read.shape[1]], answers)

    def commit_order(self, canvas: Canvas) -> Tensor:
        """As known from the start of each sequence."""
        return self.ranks

    def query(self, step: Step) -> Tensor:
        """What each sequence's decoder would read."""
        return _own(self.which, [self._asked.wanted(decoder, places, step) for decoder, _, places in self._each])

    def commit(self, step: Step, read: Predictions) -> Tensor:
        """What each sequence's decoder fixes."""
        return _own(self.which, [self._asked.commit(decoder, places, step, read) for decoder, _, places in self._each])
