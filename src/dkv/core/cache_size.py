"""How many bytes a cache takes at a given length, from the facts of a model alone: nothing is allocated or loaded."""

from __future__ import annotations

import torch

from dkv.core.kv_cache import KVCache
from dkv.core.model import ModelConfig
from dkv.core.policy import CachePolicy, rules_of

__all__ = ["cache_bytes"]


def cache_bytes(
    config: ModelConfig, policy: CachePolicy, prompt: int, gen_length: int, batch: int, dtype: torch.dtype
) -> int:
    """Bytes of the buffers for `batch` sequences of prompt + gen_length positions: keys and values of every layer and
    slot, and the features that the policy's layer rules keep. Guidance doubles the batch."""
    memory = KVCache(config.layers, batch, config.kv_heads, prompt + gen_length, config.head_dim, dtype, "meta")
    memory.keep(rules_of(policy).buffers, config.width)
    return memory.nbytes
