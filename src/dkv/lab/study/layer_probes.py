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
from dkv.core.layer_rules import RotaryPhase, Rules
from dkv.core.packing import PackedRows
from dkv.core.policy import Plan, Step
from dkv.lab.study.runs import run_of, settings_for
from dkv.layers.transformer import TransformerBlock
from dkv.lm import DiffusionLM

__all__ = ["Keep", "Observe", "Snapshot", "buffers_of", "observe"]


@dataclass(frozen=True)
class Keep:
    """The dense layer, bit for bit, which also keeps what it adds: `attn` and `mlp`."""

    buffers: ClassVar[tuple[str, ...]] = ("attn", "mlp")

    def projected(self, carried: int, picked: int) -> int:
        """Every carried row."""
        return carried

    def __call__(
        self, block: TransformerBlock, x: Tensor, at: PackedRows, turn: RotaryPhase, memory: LayerCache
    ) -> Tensor:
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
    """What one step computed, of L layers, B sequences and T positions. clock: of the step; active [B]: sequences that
    it ran for; prompt, length [B]: where responses begin and end; committed_at [B, T]: as in `Canvas`, after the step
    (a position entered it with its mask where this is at least `clock`). k, v [L, B, T, kv_heads * head_dim]: keys
    after the rotation, and values; attn, mlp [L, B, T, C]: what attention and feed-forward added to the stream."""

    clock: int
    active: list[bool]
    prompt: list[int]
    length: list[int]
    committed_at: Tensor
    k: Tensor
    v: Tensor
    attn: Tensor
    mlp: Tensor


def observe(
    lm: DiffusionLM, prompts: Sequence[Sequence[int]], gen_length: int, decoder: str | None = None
) -> Iterator[Snapshot]:
    """Generate for some prompts (token ids) in one batch and yield what each step computed: one token a step, one
    block, temperature 0. decoder: a spec, None = the family's own.

    For float32: in bfloat16 a cosine near 1 is mostly rounding. Raises SettingError.
    """
    rule = decoder or lm.model.config.default_decoder
    run = run_of(lm, prompts, settings_for(Observe(), gen_length, gen_length, rule, stop_at_eos=True))
    canvas, memory = run.state.canvas, run.state.memory
    prompt, length = canvas.prompt.tolist(), canvas.length.tolist()
    for clock, tick in enumerate(run.steps()):
        yield Snapshot(
            clock=clock,
            active=[not done for done in tick.done],
            prompt=prompt,
            length=length,
            committed_at=canvas.committed_at.clone(),
            k=buffers_of(memory.layers, "k"),
            v=buffers_of(memory.layers, "v"),
            attn=buffers_of(memory.layers, "attn"),
            mlp=buffers_of(memory.layers, "mlp"),
        )


def buffers_of(layers: Sequence[LayerCache], name: str) -> Tensor:
    """A copy of one buffer of some layers, heads side by side, without scratch: [L, B, T, heads * D]."""
    return torch.stack([layer.buffers[name][:, :, :-1].transpose(1, 2).flatten(2) for layer in layers])
