"""The parts of a LLaMA-shaped bidirectional transformer, as verbs that a layer rule composes.

It knows of rows, where they sit and a memory for keys and values; it knows nothing of policies, decoders or steps.
Plain tensors, inference only. N carried rows, C model width, H query and G key/value heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.drift import drift
from dkv.memory import LayerMemory, Memory
from dkv.model import ModelConfig
from dkv.place import At, Bucket, exact
from dkv.rules import DENSE, Rules, Turn

__all__ = ["Block", "Rotary", "Transformer", "attention", "bucket_for", "dense", "rotary_table"]


def rotary_table(head_dim: int, positions: int, theta: float, device: torch.device) -> Tensor:
    """cos and sin of every position, [2, positions, head_dim] float32; the sine's first half carries the minus sign."""
    rate = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    angle = torch.arange(positions, dtype=torch.float32, device=device)[:, None] * rate
    sign = torch.tensor([-1.0, 1.0], device=device).repeat_interleave(head_dim // 2)
    return torch.stack((angle.cos().repeat(1, 2), angle.sin().repeat(1, 2) * sign))


class Rotary:
    """The rotary table of a model, made as far as its longest memory so far needs: a context of 131,072 positions, or
    a damaged config that asks for billions, costs nothing until it is used.

    Lengths double up to the context. Shorter tables are kept, since a captured graph may still read one; all of them
    together are less than twice as long as the last.
    """

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        self._config, self._device = config, device
        self._tables: list[Tensor] = []

    @property
    def table(self) -> Tensor:
        """[2, positions, head_dim] float32, for as many positions as `reach` was asked for."""
        return self._tables[-1]

    def reach(self, positions: int) -> None:
        """Make sure of the table for `positions`."""
        if self._tables and self.table.shape[1] >= positions:
            return
        c, doubled = self._config, 1 << (positions - 1).bit_length()
        length = max(positions, min(doubled, c.context + 1))
        self._tables.append(rotary_table(c.head_dim, length, c.rope_theta, self._device))


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k' / sqrt(D)) v for q [B, H, R, D], k and v [B, G, T, D], mask [B, 1, 1, T] or None."""
    grouped = q.shape[1] != k.shape[1]
    # The CPU's fused kernel takes twice as long in bfloat16 as two plain products, once these are large.
    plain = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] * k.shape[2] >= 8192
    if not plain or mask is not None or grouped:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    return torch.matmul(scores.softmax(dim=-1), v)


@dataclass(frozen=True)
class Block:
    """One layer. attn_norm, mlp_norm [C]; qk [(H + G) * D, C]; v [G * D, C]; out [C, H * D]; gate_up [2 F, C];
    down [C, F]; biases of qk and v or None."""

    config: ModelConfig
    attn_norm: Tensor
    mlp_norm: Tensor
    qk_weight: Tensor
    v_weight: Tensor
    out_weight: Tensor
    gate_up_weight: Tensor
    down_weight: Tensor
    qk_bias: Tensor | None = None
    v_bias: Tensor | None = None

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm of x [N, C]."""
        return F.rms_norm(x, weight.shape, weight, self.config.norm_eps)

    def qk(self, h: Tensor, turn: Turn) -> tuple[Tensor, Tensor]:
        """Rotated queries [N, H, D] and keys [N, G, D] of h [N, C]."""
        c = self.config
        heads = F.linear(h, self.qk_weight, self.qk_bias).view(-1, c.heads + c.kv_heads, c.head_dim)
        turned = turn(heads)
        return turned[:, : c.heads], turned[:, c.heads :]

    def value(self, h: Tensor) -> Tensor:
        """Values [N, G, D] of h [N, C]."""
        return F.linear(h, self.v_weight, self.v_bias).view(-1, self.config.kv_heads, self.config.head_dim)

    def drift(self, new: Tensor, old: Tensor, similarity: str) -> Tensor:
        """How far values [N, G, D] moved, [N] float32."""
        return drift(new, old, similarity)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, at: At) -> Tensor:
        """Attention of the carried queries [N, H, D] over every slot, projected: [N, C]."""
        return F.linear(at.attend(q, k.to(q.dtype), v.to(q.dtype), attention), self.out_weight)

    def mlp(self, x: Tensor) -> Tensor:
        """The gated feed-forward of x [N, C], norm included, residual not."""
        gate, up = F.linear(self.norm(x, self.mlp_norm), self.gate_up_weight).chunk(2, dim=1)
        return F.linear(F.silu(gate) * up, self.down_weight)


def dense(block: Block, x: Tensor, at: At, turn: Turn, memory: LayerMemory) -> Tensor:
    """The ordinary layer: every carried row writes its slot, attends and passes through the MLP."""
    h = block.norm(x, block.attn_norm)
    q, k = block.qk(h, turn)
    memory.put("k", at, k)
    memory.put("v", at, block.value(h))
    x = x + block.attend(q, *memory.kv, at)
    return x + block.mlp(x)


@dataclass(frozen=True)
class Transformer:
    """A model: embedding [V, C], blocks, final norm [C], head [V, C], rotary table; quantize: what the blocks' weights
    are packed as, None = they are plain."""

    config: ModelConfig
    embedding: Tensor
    blocks: tuple[Block, ...]
    final_norm: Tensor
    head_weight: Tensor
    rotary: Rotary
    quantize: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype; of packed ones, that in which they are multiplied."""
        return self.embedding.dtype

    def remember(self, batch: int, width: int, dtype: torch.dtype | None = None) -> Memory:
        """A memory for `batch` sequences of `width` slots, and the rotary table as far as it reaches."""
        c = self.config
        self.rotary.reach(width + 1)
        return Memory(c.layers, batch, c.kv_heads, width, c.head_dim, dtype or self.dtype, self.device)

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings [N, C] of tokens [N]."""
        return F.embedding(tokens, self.embedding)

    def forward(self, tokens: Tensor, at: At, memory: Memory, rules: Rules = DENSE) -> Tensor:
        """Carry the rows `at` of tokens [N] through every layer under its rule: hidden states [N, C]."""
        x = self.embed(tokens)
        turn = Turn(*self.rotary.table[:, at.slot].unsqueeze(2))
        memory.keep(rules, self.config.width)
        for number, (block, layer) in enumerate(zip(self.blocks, memory.layers, strict=True)):
            x = (rules.of(number) or dense)(block, x, at, turn, layer)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """Final norm and head of x [M, C]: [M, V] float32. Run it only on the rows that are read."""
        normed = F.rms_norm(x, self.final_norm.shape, self.final_norm, self.config.norm_eps)
        return F.linear(normed, self.head_weight).float()


def bucket_for(device: torch.device, dtype: torch.dtype) -> Bucket:
    """How row counts are rounded up. oneDNN builds a kernel for every new shape of a bfloat16 product (about 2 ms each
    on a CPU), so there they come in a few sizes: steps of 8, then of a sixteenth. float32 needs none."""
    return _sixteenths if device.type == "cpu" and dtype == torch.bfloat16 else exact


def _sixteenths(rows: int) -> int:
    step = max(8, (1 << rows.bit_length()) // 32)
    return -(-rows // step) * step
