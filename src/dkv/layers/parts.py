"""The parts of a block: bidirectional attention with rotary positions, and a gated feed-forward.

Queries may share keys (grouped queries), projections may have biases, and queries and keys may be normed head by head.
N carried rows, C model width, F width of the feed-forward's hidden layer, H query and G key/value heads, D head size,
B sequences, T slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.drift import Lengths, whole_lengths
from dkv.core.kv_cache import LayerCache
from dkv.core.layer_rules import RotaryPhase
from dkv.core.model import ModelConfig
from dkv.core.packing import PackedRows
from dkv.distributed.group import Team
from dkv.layers.cpu_linear import Gates, gated, laid_out, laid_out_gates, linear
from dkv.layers.ops import rms_norm
from dkv.layers.parameters import Parameter
from dkv.layers.tensor_parallel import lengths_summed

__all__ = [
    "AttentionWeights",
    "FeedForward",
    "FeedForwardWeights",
    "SelfAttention",
    "SwiGLU",
    "SwiGLUWeights",
    "attention",
    "has_tiles",
]


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k' / sqrt(D)) v for q [B, H, R, D], k and v [B, G, T, D], mask [B, 1, 1 or R, T] or None."""
    if q.shape[1] != k.shape[1]:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    # Without tiles for bfloat16 (AMX) the CPU's fused kernel takes twice as long as two plain products, once these are
    # large; with them two thirds.
    large = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] * k.shape[2] >= 8192
    if mask is not None or not large or has_tiles():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    return torch.matmul(scores.softmax(dim=-1), v)


def has_tiles() -> bool:
    """Whether the processor multiplies tiles of bfloat16."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def linear_summed(x: Tensor, weight: Tensor, bias: Tensor | None, team: Team | None) -> Tensor:
    """x [N, C] times weight [O, C], plus bias [O]: [N, O]; with a team, of which each rank has some of C, the sum."""
    if team is None:
        return linear(x, weight, bias)
    product = team.sum(linear(x, weight))
    return product if bias is None else product.add_(bias)


def _spread(x: Tensor, numbers: Tensor) -> Tensor:
    """x [N, ...] with NaN in the rows where one of numbers [N, S] is NaN or infinity, written over.

    The CPU's fused attention can turn such queries and keys into zeros, and the text would be wrong without an error;
    so they are made to reach the logits, which are checked. Finite rows keep their numbers.
    """
    if numbers.shape[1] > 1:
        numbers = torch.linalg.vector_norm(numbers, torch.inf, dim=1, keepdim=True)
    return x.add_(numbers * 0)


@dataclass(frozen=True, eq=False)
class SelfAttention:
    """Attention of one layer, or one rank's heads of it."""

    config: ModelConfig
    """H and G are those held here."""
    qk_weight: Tensor
    """[(H + G) * D, C] the channels of each head in pairs (`rotary.paired`)."""
    v_weight: Tensor
    """[G * D, C]."""
    out_weight: Tensor
    """[C, H * D]."""
    qk_bias: Tensor | None = None
    """[(H + G) * D]."""
    v_bias: Tensor | None = None
    """[G * D]."""
    out_bias: Tensor | None = None
    """[C]."""
    q_norm: Tensor | None = None
    """[D] weight of the RMS norm of each query head before it is rotated; None = not normed."""
    k_norm: Tensor | None = None
    """[D] the same of each key head."""
    team: Team | None = None
    """The ranks that share the heads; None = all are here."""
    guarded: bool = True
    """Whether queries and keys could be NaN or infinite, and are checked for it."""

    def qk(self, h: Tensor, turn: RotaryPhase) -> tuple[Tensor, Tensor]:
        """Rotated queries [N, H, D] and keys [N, G, D] of h [N, C]; NaN throughout a row that is not finite."""
        c = self.config
        both = linear(h, self.qk_weight, self.qk_bias)
        both = _spread(both, both) if self.guarded else both
        heads = both.view(-1, c.heads + c.kv_heads, c.head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = torch.split(heads, [c.heads, c.kv_heads], dim=1)
            heads = torch.cat((self._normed(q, self.q_norm), self._normed(k, self.k_norm)), dim=1)
        q, k = torch.split(turn(heads), [c.heads, c.kv_heads], dim=1)
        return q, k

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm of each head of x [N, heads, D]."""
        return rms_norm(x.reshape(-1, x.shape[2]), weight, self.config.norm_eps).view(x.shape)

    def value(self, h: Tensor) -> Tensor:
        """Values [N, G, D] of h [N, C]."""
        return linear(h, self.v_weight, self.v_bias).view(-1, self.config.kv_heads, self.config.head_dim)

    @property
    def lengths(self) -> Lengths:
        """How long values are over all heads of the model."""
        return whole_lengths if self.team is None else partial(lengths_summed, team=self.team)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, at: PackedRows) -> Tensor:
        """Attention of the carried queries [N, H, D] over every slot, projected, over all ranks' heads: [N, C]."""
        if k.dtype != q.dtype:
            k, v = k.to(q.dtype), v.to(q.dtype)
        attended = at.attend(q, k, v, attention)
        attended = _spread(attended, q[:, 0, :1]) if self.guarded else attended
        return linear_summed(attended, self.out_weight, self.out_bias, self.team)

    def __call__(self, h: Tensor, at: PackedRows, turn: RotaryPhase, memory: LayerCache, values: bool = True) -> Tensor:
        """Of the carried rows h [N, C], normed, without the residual: [N, C]. Their keys go into their slots, and with
        `values` their values; then they attend."""
        q, k = self.qk(h, turn)
        memory.write("k", at, k)
        if values:
            memory.write("v", at, self.value(h))
        return self.attend(q, *memory.kv, at)


@dataclass(frozen=True)
class AttentionWeights:
    """What a checkpoint calls the weights of an attention part. What it has no name for, the part does not have."""

    q: str
    k: str
    v: str
    out: str
    biases: tuple[str, str, str] | None = None
    """Of q, k and v."""
    out_bias: str | None = None
    norms: tuple[str, str] | None = None
    """Weights [D] of the norms of each query head and each key head."""

    def parameters(self, c: ModelConfig) -> dict[str, Parameter]:
        """Each tensor of the part, by its field."""
        queries, keys, rotary = c.heads * c.head_dim, c.kv_heads * c.head_dim, (c.head_dim, c.rotary_dim)
        fields = {
            "qk_weight": Parameter({self.q: (queries, c.width), self.k: (keys, c.width)}, 0, laid_out, rotary),
            "v_weight": Parameter({self.v: (keys, c.width)}, 0, laid_out),
            "out_weight": Parameter({self.out: (c.width, queries)}, 1, laid_out),
        }
        if self.biases is not None:
            q, k, v = self.biases
            fields["qk_bias"] = Parameter({q: (queries,), k: (keys,)}, 0, rotary=rotary)
            fields["v_bias"] = Parameter({v: (keys,)}, 0)
        if self.out_bias is not None:
            fields["out_bias"] = Parameter({self.out_bias: (c.width,)})
        for field, name in zip(("q_norm", "k_norm"), self.norms or (), strict=False):
            fields[field] = Parameter({name: (c.head_dim,)}, rotary=rotary)
        return fields

    def part(self, c: ModelConfig, team: Team | None, guarded: bool, **tensors: Any) -> SelfAttention:
        """The part, or one rank's share of it (c: that rank's sizes), of what `parameters` names."""
        return SelfAttention(c, **tensors, team=team, guarded=guarded)


class FeedForward(Protocol):
    """A feed-forward part."""

    def __call__(self, h: Tensor) -> Tensor:
        """Of normed rows h [N, C], without the residual: [N, C]."""
        ...


class FeedForwardWeights(Protocol):
    """What a checkpoint calls the weights of a kind of feed-forward part."""

    def parameters(self, c: ModelConfig) -> dict[str, Parameter]:
        """Each tensor of the part, by the name that `part` takes it under."""
        ...

    def part(self, c: ModelConfig, team: Team | None, **tensors: Any) -> FeedForward:
        """The part, or one rank's share of it (c: that rank's sizes), of what `parameters` names."""
        ...


@dataclass(frozen=True, eq=False)
class SwiGLU:
    """(silu(h gate') * (h up')) down' (Shazeer, arXiv 2002.05202)."""

    gate_up_weight: Tensor | Gates
    """[2 F, C] gate above up."""
    down_weight: Tensor
    """[C, F]."""
    gate_up_bias: Tensor | None = None
    """[2 F]."""
    down_bias: Tensor | None = None
    """[C]."""
    team: Team | None = None
    """The ranks that share F; None = it is whole."""

    def __call__(self, h: Tensor) -> Tensor:
        """Of normed rows h [N, C], without the residual: [N, C]."""
        hidden = gated(h, self.gate_up_weight, self.gate_up_bias)
        return linear_summed(hidden, self.down_weight, self.down_bias, self.team)


@dataclass(frozen=True)
class SwiGLUWeights:
    """What a checkpoint calls the weights of a SwiGLU."""

    gate: str
    up: str
    down: str
    biases: tuple[str, str, str] | None = None
    """Of gate, up and down; None = there are none."""

    def parameters(self, c: ModelConfig) -> dict[str, Parameter]:
        """Each tensor of the part."""
        hidden, width = c.mlp_width, c.width
        fields = {
            "gate_up_weight": Parameter({self.gate: (hidden, width), self.up: (hidden, width)}, 0, laid_out_gates),
            "down_weight": Parameter({self.down: (width, hidden)}, 1, laid_out),
        }
        if self.biases is not None:
            gate, up, down = self.biases
            fields["gate_up_bias"] = Parameter({gate: (hidden,), up: (hidden,)}, 0)
            fields["down_bias"] = Parameter({down: (width,)})
        return fields

    def part(self, c: ModelConfig, team: Team | None, **tensors: Any) -> SwiGLU:
        """The part of what `parameters` names."""
        return SwiGLU(**tensors, team=team)
