"""One rank's share of a network: its heads of every attention, its columns of every feed-forward, its rows of the
vocabulary.

Queries, keys, values, gate and up are cut by their outputs, so that a head and a channel lie on one rank; what follows
them (out, down) by its inputs, so that each rank has a part of the sum: two sums over ranks a layer. The embedding and
the head are cut by the vocabulary; norms are whole. (Shoeybi et al., Megatron-LM, arXiv 1909.08053, section 3.)

Plain tensors and collectives: DTensor would lay out the same shards, and dispatch every operation in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.model import ModelConfig
from dkv.distributed.group import Team
from dkv.distributed.shard import Cut
from dkv.errors import SettingError

__all__ = ["embedding_summed", "lengths_summed", "logits_gathered", "share_of"]


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


def lengths_summed(new: Tensor, old: Tensor, team: Team) -> Sequence[Tensor]:
    """How long values are over the heads of all ranks (`Lengths`); the same bits on every rank."""
    squares = torch.stack([v.square().sum(1) for v in (new, old, new - old)])
    return team.gather(squares).sum(0).sqrt().unbind()


def embedding_summed(tokens: Tensor, embedding: Tensor, vocab: int, team: Team) -> Tensor:
    """Embeddings [N, C] of tokens [N], of this rank's rows of the table [vocab / ranks, C]: each is one rank's row, and
    nothing is added to it."""
    first, count = Cut(0, team.rank, team.ranks).span(vocab)
    own = tokens - first
    here = (own >= 0) & (own < count)
    rows = F.embedding(torch.where(here, own, 0), embedding)
    return team.sum(rows.masked_fill(~here[:, None], 0.0))


def logits_gathered(part: Tensor, vocab: int, team: Team) -> Tensor:
    """Logits [M, vocab] of this rank's [M, vocab / ranks]; the same bits on every rank."""
    most = Cut(0, 0, team.ranks).span(vocab)[1]
    parts = team.gather(F.pad(part, (0, most - part.shape[1])))
    return parts.transpose(0, 1).flatten(1)[:, :vocab].contiguous()
