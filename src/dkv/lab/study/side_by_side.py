"""Caches beside no cache on one and the same canvas, so that what differs is the cache's error and not its sequel.

A leader generates without a cache. Every follower, a run under some cache with a memory of its own, takes the same
step; then it is given the canvas on which the leader goes on. So a follower never sees the tokens that it would have
chosen, but what it read and what its memory holds can be compared with what the leader has, step by step.

Memory and scores stay its own. A score is the confidence that it read itself, perhaps long ago or never: a cache that
goes by scores (dkv-greedy) would choose its rows by what only no cache can know, if it were given the leader's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from dkv.core.kv_cache import KVCache
from dkv.core.loop import State, StepOutput
from dkv.core.policy import CachePolicy
from dkv.lab.common.engine_batch import EngineBatch, batch_of
from dkv.lab.study.layer_probes import Observe
from dkv.lm import DiffusionLM
from dkv.outputs import Generation
from dkv.params import ResolvedParams

__all__ = ["Beside", "Lockstep", "Prompts", "run_of"]


@dataclass(frozen=True)
class Prompts:
    """Checked token ids with a seed each, and the settings that they are asked under (the cache aside)."""

    ids: list[list[int]]
    seeds: list[int]
    settings: ResolvedParams


@dataclass(frozen=True)
class Beside:
    """One follower at one step."""

    number: int
    active: Tensor  # [B] sequences that it ran for
    decoded: Tensor  # [B, T] their positions that hold a decided token of the response
    prompt: Tensor  # [B, T] and of the prompt
    clock: Tensor  # [B] forwards before the step
    told: StepOutput  # what the leader did
    own: StepOutput  # what the follower did
    exact: KVCache  # what the leader holds
    memory: KVCache  # what the follower holds
    computed_at: Tensor  # [B, T] when each slot of the follower was computed


class Lockstep:
    """A leader without a cache, and followers, one for each of `policies`."""

    def __init__(self, lm: DiffusionLM, prompts: Prompts, policies: Sequence[CachePolicy]) -> None:
        self._leader = run_of(lm, prompts, Observe())
        self._followers = [run_of(lm, prompts, policy) for policy in policies]

    def steps(self) -> Iterator[Beside]:
        """Each follower at each step, in turn. Raises AuditError as `advance` does."""
        leader = self._leader
        state = leader.state
        while True:
            active, clock = ~state.sequences.done, state.sequences.num_forwards
            held = state.canvas.live & active[:, None] & ~state.canvas.masked
            prompt = held & ~state.canvas.response
            owns = [follower.step() for follower in self._followers]
            told = leader.step()
            if told is None:
                return
            for number, (follower, own) in enumerate(zip(self._followers, owns, strict=True)):
                if own is not None:
                    memories = state.memory, follower.state.memory
                    computed_at = follower.state.sequences.computed_at
                    yield Beside(number, active, held & ~prompt, prompt, clock, told, own, *memories, computed_at)
                _follow(state, follower.state)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a text."""
        return self._leader.stop_ids

    def results(self) -> list[Generation]:
        """What no cache generates, once all steps were taken."""
        return self._leader.results()


def run_of(lm: DiffusionLM, prompts: Prompts, policy: CachePolicy) -> EngineBatch:
    """A run of some prompts under a cache."""
    return batch_of(lm, prompts.ids, replace(prompts.settings, cache=policy, cache_dtype=None), prompts.seeds)


def _follow(leader: State, follower: State) -> None:
    """Go on from the leader's canvas and place in the schedule. The engine replaces these tensors and never writes into
    them, so they may be shared."""
    canvas, own = leader.canvas, follower.canvas
    own.tokens, own.committed_at = canvas.tokens, canvas.committed_at
    for name in ("num_forwards", "block_step", "block", "done", "just_committed"):
        setattr(follower.sequences, name, getattr(leader.sequences, name))
