"""A generation without a cache, seen from inside: what every layer computed at every position, step by step.

Nothing is hooked. `Observe` is a policy that computes everything, under a layer rule that is the dense layer and keeps
what its attention and its feed-forward added to the stream; the engine holds these in the memory, beside keys and
values, and from there they are copied after each step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dkv.core.kv_cache import LayerCache
from dkv.core.layer_rules import LayerOps, RotaryPhase, Rules
from dkv.core.packing import PackedRows
from dkv.core.policy import Plan, Step
from dkv.lab.common.engine_batch import batch_of
from dkv.lab.study.runs import settings_for
from dkv.lm import DiffusionLM

__all__ = ["Keep", "Observe", "Snapshot", "buffers_of", "observe"]


@dataclass(frozen=True)
class Keep:
    """The dense layer, bit for bit, which also keeps what it adds: `attn` and `mlp`."""

    buffers: ClassVar[tuple[str, ...]] = ("attn", "mlp")

    def projected(self, carried: int, picked: int) -> int:
        """Every carried row."""
        return carried

    def __call__(self, block: LayerOps, x: Tensor, at: PackedRows, turn: RotaryPhase, memory: LayerCache) -> Tensor:
        """One layer: x [N, C] of the carried rows to x [N, C]."""
        attended = block.attend_and_write(block.norm(x, block.attn_norm), at, turn, memory)
        x = x + attended
        more = block.mlp(x)
        for name, added in zip(self.buffers, (attended, more), strict=True):
            memory.write(name, at, added.unsqueeze(1))
        return x + more


@dataclass(frozen=True)
class Observe:
    """rows = live: no cache, with features kept."""

    name: ClassVar[str] = "observe"
    rules: ClassVar[Rules] = Rules(Keep(), Keep())

    def plan(self, step: Step) -> Plan:
        """Compute everything, and keep it."""
        live = step.canvas.live
        return Plan(live, rules=self.rules, forced=live)


@dataclass(frozen=True)
class Snapshot:
    """What one step computed, of L layers, B sequences and T positions."""

    clock: int  # of the step
    active: list[bool]  # [B] sequences that it ran for
    prompt: list[int]  # [B] where responses begin
    length: list[int]  # [B] where they end
    committed_at: Tensor  # [B, T] as in `Canvas`, after the step; at least `clock` where a mask entered it
    k: Tensor  # [L, B, T, kv_heads * head_dim] after the rotation
    v: Tensor  # [L, B, T, kv_heads * head_dim]
    attn: Tensor  # [L, B, T, C] what attention added to the stream
    mlp: Tensor  # [L, B, T, C] what the feed-forward network added


def observe(
    lm: DiffusionLM, prompts: Sequence[Sequence[int]], gen_length: int, decoder: str | None = None
) -> Iterator[Snapshot]:
    """Generate for some prompts (token ids) in one batch and yield what each step computed: one token a step, one
    block, temperature 0. decoder: a spec, None = the family's own.

    For float32: in bfloat16 a cosine near 1 is mostly rounding. Raises SettingError.
    """
    rule = decoder or lm.model.config.default_decoder
    run = batch_of(lm, prompts, settings_for(Observe(), gen_length, gen_length, rule, stop_at_eos=True))
    canvas, memory = run.state.canvas, run.state.memory
    prompt, length = canvas.prompt.tolist(), canvas.length.tolist()
    for clock, tick in enumerate(run.steps()):
        kept = {name: buffers_of(memory.layers, name) for name in ("k", "v", "attn", "mlp")}
        yield Snapshot(clock, [not done for done in tick.done], prompt, length, canvas.committed_at.clone(), **kept)


def buffers_of(layers: Sequence[LayerCache], name: str) -> Tensor:
    """A copy of one buffer of some layers, heads side by side, without scratch: [L, B, T, heads * D]."""
    return torch.stack([layer.buffers[name][:, :, :-1].transpose(1, 2).flatten(2) for layer in layers])
