"""How many bytes a cache takes at a given length, from the facts of a model alone: nothing is allocated or loaded."""

from __future__ import annotations

import torch

from dkv.core.canvas import NEVER, lay_out
from dkv.core.kv_cache import KVCache
from dkv.core.layer_rules import Rules
from dkv.core.model import ModelConfig
from dkv.core.policy import CachePolicy, Step

__all__ = ["cache_bytes"]


def cache_bytes(
    config: ModelConfig, policy: CachePolicy, prompt: int, gen_length: int, batch: int, dtype: torch.dtype
) -> int:
    """Bytes of the buffers for `batch` sequences of prompt + gen_length positions: keys and values of every layer and
    slot, and the features that the policy's layer rules keep. Guidance doubles the batch."""
    memory = KVCache(config.layers, batch, config.kv_heads, prompt + gen_length, config.head_dim, dtype, "meta")
    memory.keep(_rules(policy, config).buffers, config.width)
    return memory.nbytes


def _rules(policy: CachePolicy, config: ModelConfig) -> Rules:
    """The layer rules with which the policy starts the shortest of sequences."""
    canvas = lay_out([[0]], 1, config.mask_id, [0])
    zero, grid = torch.zeros_like(canvas.prompt), torch.zeros_like(canvas.tokens)
    step = Step(
        canvas=canvas,
        num_forwards=zero,
        block_step=zero,
        block_steps=zero + 1,
        block=(canvas.prompt, canvas.length),
        query=canvas.masked,
        order=grid + NEVER,
        last_confidence=grid.float() - torch.inf,
        just_committed=grid.bool(),
        computed_at=grid + NEVER,
        shift=config.shift,
    )
    return policy.plan(step).rules
