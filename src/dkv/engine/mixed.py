"""Several policies and several decoders at once, each for its own sequences of one batch.

Policies and decoders treat each sequence on its own, so each may see the whole batch; what it answers for the
sequences of others is dropped. That is what lets unlike requests share a forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.canvas import Canvas
from dkv.errors import EngineError
from dkv.plan import CachePolicy, Decoder, Noting, Plan, Step, notes_of
from dkv.sampling import Read

__all__ = ["MixedDecoder", "MixedPolicy", "numbered"]

T = TypeVar("T")


def numbered(things: Sequence[T]) -> tuple[tuple[T, ...], list[int]]:
    """The distinct things in the order of their first place, and for each thing the number of its like."""
    distinct: list[T] = []
    for thing in things:
        if thing not in distinct:
            distinct.append(thing)
    return tuple(distinct), [distinct.index(thing) for thing in things]


def _own(which: Tensor, answers: Sequence[Tensor]) -> Tensor:
    """Of answers [B, ...], each sequence's from the one that `which` [B] names."""
    result = answers[0]
    for number, answer in enumerate(answers[1:], 1):
        result = torch.where((which == number).view(-1, *(1,) * (answer.dim() - 1)), answer, result)
    return result


@dataclass(frozen=True)
class MixedPolicy:
    """policies, and which [B] of them is whose. All must plan by the same layer rules."""

    policies: tuple[CachePolicy, ...]
    which: Tensor

    def plan(self, step: Step) -> Plan:
        """Each sequence's plan by its own policy."""
        plans = [policy.plan(step) for policy in self.policies]
        if len(plans) == 1:
            return plans[0]
        if any(plan.rules != plans[0].rules for plan in plans):
            raise EngineError("a cache policy changed its layer rules on the way; requests that share a forward cannot")
        none, rows = step.canvas.prompt, torch.zeros_like(step.canvas.live)

        def own(part: Callable[[Plan], Tensor | None], absent: Tensor) -> Tensor | None:
            parts = [part(plan) for plan in plans]
            if all(p is None for p in parts):
                return None
            return _own(self.which, [absent if p is None else p for p in parts])

        return Plan(
            rows=_own(self.which, [plan.rows for plan in plans]),
            visible=own(lambda plan: plan.visible, ~rows),
            reads=own(lambda plan: plan.reads, ~rows),
            rest=own(lambda plan: plan.rest, torch.zeros_like(none, dtype=torch.bool)),
            rules=plans[0].rules,
            forced=own(lambda plan: plan.forced, rows),
            frozen=own(lambda plan: plan.frozen, rows),
            budget=own(lambda plan: plan.budget, torch.zeros_like(none)),
            commits=own(lambda plan: plan.commits, rows),
        )


@dataclass(frozen=True)
class MixedDecoder:
    """decoders, which [B] of them is whose, and the ranks [B, T] that they gave when their sequences joined. When a
    block ends is a matter of each sequence's schedule here."""

    adaptive: ClassVar[bool] = True
    decoders: tuple[Decoder, ...]
    which: Tensor
    ranks: Tensor

    @property
    def notes(self) -> int:
        """As many numbers of each position as the one that keeps the most."""
        return max(map(notes_of, self.decoders))

    def note(self, step: Step, read: Read) -> Tensor:
        """What each sequence's decoder keeps, and zeros up to the most."""
        most, nothing = self.notes, torch.zeros(len(read.flat), self.notes, device=read.flat.device)
        answers = [
            F.pad(decoder.note(step, read), (0, most - decoder.notes)) if isinstance(decoder, Noting) else nothing
            for decoder in self.decoders
        ]
        return _own(self.which[read.flat // read.shape[1]], answers)

    def rank(self, canvas: Canvas) -> Tensor:
        """As known from the start of each sequence."""
        return self.ranks

    def wanted(self, step: Step) -> Tensor:
        """What each sequence's decoder would read."""
        return _own(self.which, [decoder.wanted(step) for decoder in self.decoders])

    def commit(self, step: Step, read: Read) -> Tensor:
        """What each sequence's decoder fixes."""
        return _own(self.which, [decoder.commit(step, read) for decoder in self.decoders])
