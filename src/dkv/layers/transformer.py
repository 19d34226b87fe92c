"""The parts of a LLaMA-shaped bidirectional transformer, as verbs that a layer rule composes.

It knows of rows, where they sit and a memory for keys and values; it knows nothing of policies, decoders or steps.
Plain tensors, inference only. N carried rows, C model width, H query and G key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.drift import Lengths, whole_lengths
from dkv.core.kv_cache import PLAIN_CACHE_OPS, CacheOps, KVCache, LayerCache
from dkv.core.layer_rules import DENSE, RotaryPhase, Rules
from dkv.core.model import ModelConfig
from dkv.core.packing import Bucket, PackedRows, exact
from dkv.core.sampling import PLAIN_LOGIT_OPS, LogitOps
from dkv.layers.cpu_linear import Gates, gated, linear
from dkv.layers.ops import COMPOSED, Passes
from dkv.layers.rotary import Rotary

__all__ = [
    "Rule",
    "Run",
    "Transformer",
    "TransformerBlock",
    "attention",
    "bucket_for",
    "dense",
    "eager",
    "has_tiles",
    "sixteenths",
]


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k' / sqrt(D)) v for q [B, H, R, D], k and v [B, G, T, D], mask [B, 1, 1, T] or None."""
    if q.shape[1] != k.shape[1]:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    # Without tiles for bfloat16 (AMX) the CPU's fused kernel takes twice as long as two plain products, once these are
    # large; with them two thirds.
    large = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] * k.shape[2] >= 8192
    if mask is not None or not large or has_tiles():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    return torch.matmul(scores.softmax(dim=-1), v)


def _spread(x: Tensor, numbers: Tensor) -> Tensor:
    """x [N, ...] with NaN in the rows where one of numbers [N, S] is NaN or infinity, written over.

    The CPU's fused attention can turn such queries and keys into zeros, and the text would be wrong without an error;
    so they are made to reach the logits, which are checked. Finite rows keep their numbers.
    """
    if numbers.shape[1] > 1:
        numbers = torch.linalg.vector_norm(numbers, torch.inf, dim=1, keepdim=True)
    return x.add_(numbers * 0)


def has_tiles() -> bool:
    """Whether the processor multiplies tiles of bfloat16."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


@dataclass(frozen=True, eq=False)
class TransformerBlock:
    """One layer. attn_norm, mlp_norm [C]; qk [(H + G) * D, C], the channels of each head in pairs (`rotary.paired`);
    v [G * D, C]; out [C, H * D]; gate_up [2 F, C]; down [C, F]; biases of qk and v or None; passes: what is done
    between products; guarded: whether queries and keys could be NaN or infinite, and are checked for it."""

    config: ModelConfig
    attn_norm: Tensor
    mlp_norm: Tensor
    qk_weight: Tensor
    v_weight: Tensor
    out_weight: Tensor
    gate_up_weight: Tensor | Gates
    down_weight: Tensor
    qk_bias: Tensor | None = None
    v_bias: Tensor | None = None
    passes: Passes = COMPOSED
    guarded: bool = True

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm of x [N, C]."""
        return self.passes.norm(x, weight, self.config.norm_eps)

    def qk(self, h: Tensor, turn: RotaryPhase) -> tuple[Tensor, Tensor]:
        """Rotated queries [N, H, D] and keys [N, G, D] of h [N, C]; NaN throughout a row that is not finite."""
        c = self.config
        both = linear(h, self.qk_weight, self.qk_bias)
        both = _spread(both, both) if self.guarded else both
        heads = both.view(-1, c.heads + c.kv_heads, c.head_dim)
        q, k = torch.split(self.passes.turn(heads, turn), [c.heads, c.kv_heads], dim=1)
        return q, k

    def value(self, h: Tensor) -> Tensor:
        """Values [N, G, D] of h [N, C]."""
        return linear(h, self.v_weight, self.v_bias).view(-1, self.config.kv_heads, self.config.head_dim)

    @property
    def lengths(self) -> Lengths:
        """How long values are over all heads of the model."""
        return whole_lengths

    def pick(self, x: Tensor, at: PackedRows, memory: LayerCache, similarity: str | None) -> tuple[Tensor, PackedRows]:
        """x [N, C] normed, and the rows of it to recompute: those whose values moved most by `similarity`; the values
        go into their slots unless they are frozen. None: the first rows, and no value is renewed."""
        h = self.norm(x, self.attn_norm)
        if similarity is None:
            return h, self.passes.pick(at, torch.zeros(len(x), device=x.device))
        moved = memory.renew("v", at, self.value(h), similarity, at.required_selection.frozen, self.lengths)
        return h, self.passes.pick(at, moved)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, at: PackedRows) -> Tensor:
        """Attention of the carried queries [N, H, D] over every slot, projected: [N, C]."""
        if k.dtype != q.dtype:
            k, v = k.to(q.dtype), v.to(q.dtype)
        attended = at.attend(q, k, v, attention)
        return linear(_spread(attended, q[:, 0, :1]) if self.guarded else attended, self.out_weight)

    def attend_and_write(
        self, h: Tensor, at: PackedRows, turn: RotaryPhase, memory: LayerCache, values: bool = True
    ) -> Tensor:
        """What attention adds to the carried rows, h [N, C] once normed, after their keys (and values) went into their
        slots: [N, C]."""
        q, k = self.qk(h, turn)
        memory.write("k", at, k)
        if values:
            memory.write("v", at, self.value(h))
        return self.attend(q, *memory.kv, at)

    def mlp(self, x: Tensor) -> Tensor:
        """The gated feed-forward of x [N, C], norm included, residual not."""
        return linear(gated(self.norm(x, self.mlp_norm), self.gate_up_weight), self.down_weight)

    def recompute(
        self,
        x: Tensor,
        h: Tensor,
        at: PackedRows,
        picked: PackedRows,
        turn: RotaryPhase,
        memory: LayerCache,
        name: str,
        values: bool = True,
    ) -> Tensor:
        """Take the picked ones of x [N, C], h [N, C] once normed, through the layer, and keep what it adds in the
        feature buffer `name`; to the others add what that holds, [N, C]."""
        if not len(picked.slot):
            return memory.add_kept(name, at, x)
        own, normed, phase = (
            rows if picked.index is None else rows.index_select(0, picked.index) for rows in (x, h, turn.phase)
        )
        attended = self.attend_and_write(normed, picked, RotaryPhase(phase), memory, values)
        own = own + attended
        more = self.mlp(own)
        memory.write(name, picked, (attended + more).unsqueeze(1))
        return picked.scatter(memory.add_kept(name, at, x), own.add_(more))

    def dense(self, x: Tensor, at: PackedRows, turn: RotaryPhase, memory: LayerCache) -> Tensor:
        """The ordinary layer: every carried row writes its slot, attends and passes through the MLP."""
        # Into what was just made, so that nothing is allocated for a sum.
        x = self.attend_and_write(self.norm(x, self.attn_norm), at, turn, memory).add_(x)
        return self.mlp(x).add_(x)


def dense(block: TransformerBlock, x: Tensor, at: PackedRows, turn: RotaryPhase, memory: LayerCache) -> Tensor:
    """The rule of layers that have none."""
    return block.dense(x, at, turn, memory)


Rule = Callable[[TransformerBlock, Tensor, PackedRows, RotaryPhase, LayerCache], Tensor]
"""How a layer's parts are composed: `dense`, or a LayerRule."""

Run = Callable[[Rule, Sequence[TransformerBlock], Tensor, PackedRows, RotaryPhase, Sequence[LayerCache]], Tensor]
"""How layers under one rule are run, one after the other."""


def eager(
    rule: Rule,
    blocks: Sequence[TransformerBlock],
    x: Tensor,
    at: PackedRows,
    turn: RotaryPhase,
    memories: Sequence[LayerCache],
) -> Tensor:
    """Run layers operation by operation: x [N, C] to x [N, C]."""
    for block, memory in zip(blocks, memories, strict=True):
        x = rule(block, x, at, turn, memory)
    return x


@dataclass(frozen=True)
class Transformer:
    """A model: embedding [V, C], blocks, final norm [C], head [V, C], rotary table; run: how its layers are run;
    quantize: what the blocks' weights are packed as, None = they are plain; logit_ops: how tokens are found from its
    logits; cache_ops: how rows go in and out of its memories."""

    config: ModelConfig
    embedding: Tensor
    blocks: tuple[TransformerBlock, ...]
    final_norm: Tensor
    head_weight: Tensor
    rotary: Rotary
    run: Run = eager
    quantize: str | None = None
    logit_ops: LogitOps = PLAIN_LOGIT_OPS
    cache_ops: CacheOps = PLAIN_CACHE_OPS

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype; of packed ones, that in which they are multiplied."""
        return self.embedding.dtype

    def new_kv_cache(self, batch: int, width: int, dtype: torch.dtype | None = None) -> KVCache:
        """A memory for `batch` sequences of `width` slots, of the heads held here, and the rotary table as far as it
        reaches."""
        c = self.blocks[0].config
        self.rotary.reach(width + 1)
        kind = dtype or self.dtype
        return KVCache(c.layers, batch, c.kv_heads, width, c.head_dim, kind, self.device, self.cache_ops)

    @property
    def passes(self) -> Passes:
        """What is done between products."""
        return self.blocks[0].passes

    def passing(self, passes: Passes) -> Self:
        """The same network with other passes."""
        return replace(self, blocks=tuple(replace(block, passes=passes) for block in self.blocks))

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings [N, C] of tokens [N]."""
        return F.embedding(tokens, self.embedding)

    def forward(self, tokens: Tensor, at: PackedRows, memory: KVCache, rules: Rules = DENSE) -> Tensor:
        """Carry the rows `at` of tokens [N] through every layer under its rule: hidden states [N, C]."""
        x = self.embed(tokens)
        turn = self.rotary.turn(at.slot)
        memory.keep(rules.buffers, self.config.width)
        for rule, span in rules.runs(len(self.blocks)):
            x = self.run(rule or dense, self.blocks[span], x, at, turn, memory.layers[span])
        return x

    def logits(self, x: Tensor) -> Tensor:
        """Final norm and head of x [M, C]: [M, V]. Run it only on the rows that are read."""
        return linear(self.passes.norm(x, self.final_norm, self.config.norm_eps), self.head_weight)


def bucket_for(device: torch.device, dtype: torch.dtype) -> Bucket:
    """How row counts are rounded up. oneDNN builds a kernel for every new shape of a bfloat16 product (about 2 ms each
    on a CPU), so there they come in a few sizes: steps of 8, then of a sixteenth. float32 needs none."""
    return sixteenths if device.type == "cpu" and dtype == torch.bfloat16 else exact


def sixteenths(rows: int) -> int:
    """The bucket of a few sizes: steps of 8, then of a sixteenth of the power of two below."""
    step = max(8, (1 << rows.bit_length()) // 32)
    return -(-rows // step) * step
