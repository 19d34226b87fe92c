"""What a cache policy sees (`Step`), what it answers (`Plan`), what a decoder is, and what decoders share.

A policy is one function from the state of the canvas to the boolean mask of rows to compute. Everything that is not
computed is read from the slots as they were left; that is all that caching is here.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.canvas import NEVER, Canvas, lowest
from dkv.core.layer_rules import DENSE, Rules
from dkv.core.sampling import Predictions

__all__ = [
    "CachePolicy",
    "Decoder",
    "Plan",
    "ReadsBlock",
    "StatefulDecoder",
    "Step",
    "entropy",
    "most",
    "rows_predicting",
    "rules_of",
    "state_size_of",
]


@dataclass(frozen=True)
class Step:
    """All that a policy or a decoder may look at before a forward. B sequences, T positions, K numbers of state."""

    canvas: Canvas
    """The canvas itself, not a copy: it moves on with the commit."""
    num_forwards: Tensor
    """[B] forwards of this sequence so far."""
    block_step: Tensor
    """[B] step within the active block, from 0."""
    block_steps: Tensor
    """[B] steps of the active block."""
    block: tuple[Tensor, Tensor]
    """Start [B] and end [B] of the active block, as positions."""
    query: Tensor
    """[B, T] bool: positions that the decoder would read now."""
    order: Tensor
    """[B, T] the decoder's expected commit order, 0 first; NEVER where unknown."""
    last_confidence: Tensor
    """[B, T] float32: confidence (log-probability) last read there; -inf before."""
    just_committed: Tensor
    """[B, T] bool: tokens committed by the previous step."""
    computed_at: Tensor
    """[B, T] value of num_forwards when the slot was computed; NEVER before."""
    shift: int
    """1 where row p predicts token p + 1 (and row 0 also itself), else 0."""
    decoder_state: Tensor | None = None
    """[B, T, K] float32: what the decoder stored when it last read there, 0 before; None for a stateless decoder."""

    def with_query(self, query: Tensor) -> Step:
        """The same step with another `query` [B, T]; what was found out of the rest stays known."""
        step = copy(self)
        step.__dict__.pop("query_rows", None)
        step.__dict__["query"] = query  # frozen, as its users see it
        return step

    @cached_property
    def masked(self) -> Tensor:
        """[B, T] positions still to be fixed."""
        return self.canvas.masked

    @cached_property
    def open(self) -> Tensor:
        """[B, T] masked positions up to the active block's end (also ones left behind before it)."""
        return self.masked & (self.canvas.position < self.block[1][:, None])

    @cached_property
    def query_rows(self) -> Tensor:
        """[B, T] rows whose output predicts the wanted positions."""
        return rows_predicting(self.query, self.shift)

    @cached_property
    def num_transfer_tokens(self) -> Tensor:
        """[B] tokens that LLaDA's schedule fixes at this step: an even split over the block's steps, the remainder to
        the earliest; which is what is open, over the steps left, rounded up."""
        left = self.block_steps - self.block_step
        return (self.open.sum(1) + left - 1) // left


def rows_predicting(wanted: Tensor, shift: int) -> Tensor:
    """Rows that predict the `wanted` [B, T] positions, for a model whose row p predicts token p + shift."""
    if not shift:
        return wanted
    left = F.pad(wanted[:, 1:], (0, 1))
    left[:, 0] |= wanted[:, 0]
    return left


@dataclass(frozen=True)
class Plan:
    """What one forward computes. B sequences, T positions.

    forced, frozen and budget are for layers that select rows of their own (`rules`).
    """

    rows: Tensor
    """[B, T] bool: rows carried through the network. The core adds the rows that predict the queried positions, so that
    no token is ever chosen from a row that was not carried."""
    visible: Tensor | None = None
    """[B, T] bool: slots that attention may read; None = all live ones."""
    query: Tensor | None = None
    """[B, T] bool: which of `Step.query` are read now; None = all."""
    skip_unconditional: Tensor | None = None
    """[B] bool: unconditional rows that skip this forward, their last output standing in; None = none."""
    rules: Rules = DENSE
    """How each layer composes its operations; the same in every plan of a policy."""
    forced: Tensor | None = None
    """[B, T] bool: carried rows that every layer recomputes."""
    frozen: Tensor | None = None
    """[B, T] bool: carried rows that no layer recomputes."""
    budget: Tensor | None = None
    """[B] how many of the other carried rows each layer recomputes: the most drifted ones."""
    commits: Tensor | None = None
    """[B, T] bool: queried positions that are committed whatever the decoder says; None = none."""

    def num_selected(self, rows: Tensor) -> Tensor:
        """[B] rows that each picking layer recomputes, of the carried `rows` [B, T]."""
        none = torch.zeros_like(rows)
        forced = rows & (none if self.forced is None else self.forced)
        free = rows & ~forced & ~(none if self.frozen is None else self.frozen)
        count = forced.sum(1)
        return count if self.budget is None else count + torch.minimum(self.budget, free.sum(1))


@runtime_checkable
class CachePolicy(Protocol):
    """A cache: stateless, each sequence treated on its own. One whose plans have rules says so by an attribute `rules`
    as well, the same in every plan: by it the engine finds the requests that can share a forward."""

    def plan(self, step: Step) -> Plan:
        """Choose the rows to compute."""
        ...


def rules_of(policy: CachePolicy) -> Rules:
    """The layer rules of a policy's plans: its attribute `rules`, dense where it has none."""
    rules = getattr(policy, "rules", DENSE)
    return rules if isinstance(rules, Rules) else DENSE


@runtime_checkable
class Decoder(Protocol):
    """An unmasking rule. It keeps nothing between steps: what it knows ahead is its order, what it learns is in Step
    (see `StatefulDecoder` for one that must learn more). Each sequence is treated on its own. adaptive: a block ends
    as soon as it is complete, not after its steps."""

    adaptive: ClassVar[bool]

    def commit_order(self, canvas: Canvas) -> Tensor:
        """[B, T] the commit order, 0 first, as far as it is known when the sequences join; NEVER where it is not."""
        ...

    def query(self, step: Step) -> Tensor:
        """[B, T] positions that it would read now: masked ones only. (`step.query` is not filled in yet.)"""
        ...

    def commit(self, step: Step, read: Predictions) -> Tensor:
        """[B, T] positions to fix now, each among those read."""
        ...


@runtime_checkable
class StatefulDecoder(Decoder, Protocol):
    """A decoder that learns from step to step: `state_size` numbers (float32) for each position, which it writes
    whenever it reads there, and finds again in `Step.decoder_state`. They start as 0, stay as they are where nothing is
    read, and move with their sequence. There may be more columns than it asked for; the first ones are its own."""

    @property
    def state_size(self) -> int:
        """How many numbers it keeps for each position."""
        ...

    def update_state(self, step: Step, read: Predictions) -> Tensor:
        """What to keep of the positions read, [M, state_size]; `commit` then sees it in `Step.decoder_state`."""
        ...


def state_size_of(decoder: Decoder) -> int:
    """How many numbers of each position a decoder keeps between steps; 0 for one that keeps none."""
    return decoder.state_size if isinstance(decoder, StatefulDecoder) else 0


class ReadsBlock:
    """The part of a decoder that chooses among every masked position of the block, in no order known ahead."""

    def commit_order(self, canvas: Canvas) -> Tensor:
        """Not known before the forward."""
        return torch.full_like(canvas.tokens, NEVER)

    def query(self, step: Step) -> Tensor:
        """Every masked position of the block."""
        return step.open


def entropy(logits: Tensor) -> Tensor:
    """[M] of the distributions of logits [M, V], in nats; a filtered token has p = 0 and adds nothing."""
    disorder: Tensor = torch.special.entr(logits.softmax(dim=1)).sum(dim=1)
    return disorder


def most(read: Predictions, score: Tensor, count: Tensor) -> Tensor:
    """[B, T] the `count` [B] positions with the highest score [M] of those read (all of them where there are fewer);
    ties go to the lowest position."""
    # A token that filters would leave out, where a better one is barred, has no probability: the least sure, but read.
    # So is one whose score is no number, lest it stay masked for ever.
    least = torch.finfo(score.dtype).max
    key = read.spread((-score).nan_to_num(nan=least).clamp(max=least), torch.inf)
    return lowest(key, count) & (key < torch.inf)
