"""A bidirectional transformer: blocks of an attention and a feed-forward part, embedding and head.

It knows of rows, where they sit and a memory for keys and values; it knows nothing of policies, decoders or steps.
Plain tensors, inference only. N carried rows, C model width, H query and G key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.kv_cache import PLAIN_CACHE_OPS, CacheOps, KVCache, LayerCache
from dkv.core.layer_rules import DENSE, RotaryPhase, Rules
from dkv.core.model import ModelConfig
from dkv.core.packing import Bucket, PackedRows, Visibility, exact
from dkv.core.sampling import PLAIN_LOGIT_OPS, LogitOps
from dkv.distributed.group import Team
from dkv.layers.cpu_linear import linear
from dkv.layers.ops import rms_norm
from dkv.layers.parts import FeedForward, SelfAttention
from dkv.layers.tensor_parallel import embedding_summed, logits_gathered

__all__ = [
    "Rotary",
    "Rule",
    "Run",
    "Transformer",
    "TransformerBlock",
    "bucket_for",
    "dense",
    "eager",
    "rotary_table",
    "sixteenths",
]


@dataclass(frozen=True, eq=False)
class TransformerBlock:
    """One layer as operations that a layer rule composes."""

    attention: SelfAttention
    feed_forward: FeedForward
    attn_norm: Tensor
    """[C] weight of the norm before attention."""
    mlp_norm: Tensor
    """[C] weight of the norm before the feed-forward."""
    attn_out_norm: Tensor | None = None
    """[C] weight of a norm of what attention adds to the rows; None = not normed."""
    mlp_out_norm: Tensor | None = None
    """[C] the same of the feed-forward."""

    @property
    def config(self) -> ModelConfig:
        """Its sizes; heads are those held here."""
        return self.attention.config

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm of x [N, C]."""
        return rms_norm(x, weight, self.config.norm_eps)

    def _added(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return x if weight is None else self.norm(x, weight)

    def pick(self, x: Tensor, at: PackedRows, memory: LayerCache, similarity: str | None) -> tuple[Tensor, PackedRows]:
        """x [N, C] of the carried rows once normed, and those to recompute, as many of each sequence as the plan asked
        for: the ones whose values moved most over all heads of the model, by "cosine" or "l2". The values go into their
        slots, but those of frozen rows. None: none is looked at or renewed, and the lowest positions are picked. Raises
        RuntimeError where the plan did not say how many."""
        h = self.norm(x, self.attn_norm)
        if similarity is None:
            return h, at.required_selection.pick(at, torch.zeros(len(x), device=x.device))
        value, selection = self.attention.value(h), at.required_selection
        moved = memory.renew("v", at, value, similarity, selection.frozen, self.attention.lengths)
        return h, selection.pick(at, moved)

    def attend_and_write(
        self, h: Tensor, at: PackedRows, turn: RotaryPhase, memory: LayerCache, values: bool = True
    ) -> Tensor:
        """What attention adds to the carried rows, [N, C], of which h [N, C] are the normed ones: their keys go into
        their slots, and with `values` their values; then they attend."""
        return self._added(self.attention(h, at, turn, memory, values), self.attn_out_norm)

    def mlp(self, x: Tensor) -> Tensor:
        """What the feed-forward adds to x [N, C], norms included."""
        return self._added(self.feed_forward(self.norm(x, self.mlp_norm)), self.mlp_out_norm)

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
        """`attend_and_write` and `mlp` of the picked ones of the carried rows x [N, C], h [N, C] once normed; what the
        two add is kept in the feature buffer `name`. Of these rows the ordinary layer's result, and of the others x
        plus what is kept there, [N, C]."""
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
        """The ordinary layer: every carried row writes its slot, attends and passes through the feed-forward."""
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


def rotary_table(
    head_dim: int, positions: int, theta: float, device: torch.device, rotary_dim: int | None = None
) -> Tensor:
    """cos and sin of every position and pair of channels, [positions, head_dim / 2, 2] float32; 1 and 0 of the pairs
    beyond rotary_dim, which are not rotated."""
    rotated = head_dim if rotary_dim is None else rotary_dim
    rate = 1.0 / theta ** (torch.arange(0, rotated, 2, dtype=torch.float32, device=device) / rotated)
    rate = F.pad(rate, (0, (head_dim - rotated) // 2))
    angle = torch.arange(positions, dtype=torch.float32, device=device)[:, None] * rate
    return torch.stack((angle.cos(), angle.sin()), dim=-1)


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
        """[positions, head_dim / 2, 2] float32, for as many positions as `reach` was asked for."""
        return self._tables[-1]

    def reach(self, positions: int) -> None:
        """Make sure of the table for `positions`."""
        if self._tables and len(self.table) >= positions:
            return
        c, doubled = self._config, 1 << (positions - 1).bit_length()
        length = max(positions, min(doubled, c.context + 1))
        self._tables.append(rotary_table(c.head_dim, length, c.rope_theta, self._device, c.rotary_dim))

    def turn(self, slots: Tensor) -> RotaryPhase:
        """The rotation of rows that sit in `slots` [N]."""
        return RotaryPhase(self.table.index_select(0, slots).unsqueeze(1))


@dataclass(frozen=True)
class Transformer:
    """A model, or one rank's share of it."""

    config: ModelConfig
    """Of the whole model."""
    embedding: Tensor
    """[V, C]; one rank's rows of it."""
    blocks: tuple[TransformerBlock, ...]
    final_norm: Tensor
    """[C]."""
    head_weight: Tensor
    """[V, C]; one rank's rows of it."""
    rotary: Rotary
    run: Run = eager
    """How its layers are run."""
    quantize: str | None = None
    """What the weights of the blocks are packed as; None = they are plain."""
    logit_ops: LogitOps = PLAIN_LOGIT_OPS
    """How tokens are found from its logits."""
    cache_ops: CacheOps = PLAIN_CACHE_OPS
    """How rows go in and out of its memories."""
    team: Team | None = None
    """The ranks that share it; None = it is whole."""
    visible: Visibility | None = None
    """Which slots a row may attend to; None = every one that holds a token."""

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

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings [N, C] of tokens [N]."""
        if self.team is not None:
            return embedding_summed(tokens, self.embedding, self.config.vocab, self.team)
        return F.embedding(tokens, self.embedding)

    def forward(self, tokens: Tensor, at: PackedRows, memory: KVCache, rules: Rules = DENSE) -> Tensor:
        """Carry the rows `at` of tokens [N] through every layer under its rule: hidden states [N, C]."""
        if self.visible is not None:
            at = replace(at, visible=self.visible)
        x = self.embed(tokens)
        turn = self.rotary.turn(at.slot)
        memory.keep(rules.buffers, self.config.width)
        for rule, span in rules.runs(len(self.blocks)):
            x = self.run(rule or dense, self.blocks[span], x, at, turn, memory.layers[span])
        return x

    def logits(self, x: Tensor) -> Tensor:
        """Final norm and head of x [M, C]: [M, V]. Run it only on the rows that are read."""
        logits = linear(rms_norm(x, self.final_norm, self.config.norm_eps), self.head_weight)
        return logits if self.team is None else logits_gathered(logits, self.config.vocab, self.team)


def bucket_for(device: torch.device, dtype: torch.dtype) -> Bucket:
    """How row counts are rounded up. oneDNN builds a kernel for every new shape of a bfloat16 product (about 2 ms each
    on a CPU), so there they come in a few sizes: steps of 8, then of a sixteenth. float32 needs none."""
    return sixteenths if device.type == "cpu" and dtype == torch.bfloat16 else exact


def sixteenths(rows: int) -> int:
    """The bucket of a few sizes: steps of 8, then of a sixteenth of the power of two below."""
    step = max(8, (1 << rows.bit_length()) // 32)
    return -(-rows // step) * step
