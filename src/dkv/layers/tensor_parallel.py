"""The network of one rank of several: its heads of every attention, its columns of every MLP, its rows of the
vocabulary.

Queries, keys, values, gate and up are cut by their outputs, so that a head and a channel lie on one rank; what follows
them (out, down) by its inputs, so that each rank has a part of the sum: two sums over ranks a layer. The embedding and
the head are cut by the vocabulary; norms are whole. (Shoeybi et al., Megatron-LM, arXiv 1909.08053, section 3.)

Plain tensors and collectives: DTensor would lay out the same shards, and dispatch every operation in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.drift import Lengths
from dkv.core.model import ModelConfig
from dkv.core.packing import PackedRows
from dkv.distributed.group import Team
from dkv.distributed.shard import Cut
from dkv.errors import SettingError
from dkv.layers.cpu_linear import linear
from dkv.layers.transformer import Transformer, TransformerBlock

__all__ = ["DIMENSIONS", "ShardedBlock", "ShardedTransformer", "share_of"]

DIMENSIONS = {
    "embedding": 0,
    "head_weight": 0,
    "qk_weight": 0,
    "qk_bias": 0,
    "v_weight": 0,
    "v_bias": 0,
    "gate_up_weight": 0,
    "out_weight": 1,
    "down_weight": 1,
}
"""Along which dimension the parts of a field are cut; what is not named is whole on every rank."""


def share_of(c: ModelConfig, team: Team) -> ModelConfig:
    """The sizes of one rank's blocks. Raises SettingError where heads cannot be shared out."""
    if c.kv_heads % team.ranks:
        fit = ", ".join(str(n) for n in range(1, c.kv_heads + 1) if c.kv_heads % n == 0)
        raise SettingError(
            f"tensor_parallel={team.ranks} must divide the model's kv_heads={c.kv_heads} (and heads={c.heads}); "
            f"use one of {fit}"
        )
    mlp = Cut(0, team.rank, team.ranks).span(c.mlp_width)[1]
    return replace(c, heads=c.heads // team.ranks, kv_heads=c.kv_heads // team.ranks, mlp_width=mlp)


@dataclass(frozen=True)
class ShardedBlock(TransformerBlock):
    """One rank's share of a layer; its config has this rank's sizes. H and G: this rank's heads."""

    team: Team = field(kw_only=True)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, at: PackedRows) -> Tensor:
        """Attention of the carried queries [N, H, D] over every slot, projected, over all ranks' heads: [N, C]."""
        return self.team.sum(super().attend(q, k, v, at))

    def mlp(self, x: Tensor) -> Tensor:
        """The gated feed-forward of x [N, C], over all ranks' columns."""
        return self.team.sum(super().mlp(x))

    @property
    def lengths(self) -> Lengths:
        """How long values are over the heads of all ranks; the same bits on every rank."""
        return self._lengths

    def _lengths(self, new: Tensor, old: Tensor) -> Sequence[Tensor]:
        squares = torch.stack([v.square().sum(1) for v in (new, old, new - old)])
        return self.team.gather(squares).sum(0).sqrt().unbind()


@dataclass(frozen=True)
class ShardedTransformer(Transformer):
    """One rank's share of a model: config has the sizes of the whole; embedding and head [V / ranks, C]."""

    team: Team = field(kw_only=True)

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings [N, C] of tokens [N]: each is one rank's row, and nothing is added to it."""
        first, count = self._cut.span(self.config.vocab)
        own = tokens - first
        here = (own >= 0) & (own < count)
        rows = F.embedding(torch.where(here, own, 0), self.embedding)
        return self.team.sum(rows.masked_fill(~here[:, None], 0.0))

    def logits(self, x: Tensor) -> Tensor:
        """Final norm and head of x [M, C]: [M, V], gathered, the same bits on every rank."""
        normed = self.passes.norm(x, self.final_norm, self.config.norm_eps)
        part = linear(normed, self.head_weight)
        most = Cut(0, 0, self.team.ranks).span(self.config.vocab)[1]
        parts = self.team.gather(F.pad(part, (0, most - part.shape[1])))
        return parts.transpose(0, 1).flatten(1)[:, : self.config.vocab].contiguous()

    @property
    def _cut(self) -> Cut:
        return Cut(0, self.team.rank, self.team.ranks)
