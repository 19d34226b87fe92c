"""How many bytes the buffers of a cache take, from a config alone: nothing is allocated."""

from __future__ import annotations

import torch

from dkv.model import ModelConfig
from dkv.plan import CachePolicy

__all__ = ["cache_bytes"]


def cache_bytes(config: ModelConfig, policy: CachePolicy, prompt: int, gen: int, batch: int, dtype: torch.dtype) -> int:
    """Bytes for `batch` sequences of `prompt` + `gen` positions: keys and values of every layer and slot, scratch
    included; dllm-cache keeps features of the residual stream for every layer but the first as well."""
    slots = batch * (prompt + gen + 1)
    numbers = 2 * config.layers * slots * config.kv_heads * config.head_dim
    if getattr(policy, "name", "") == "dllm-cache":
        numbers += 2 * (config.layers - 1) * slots * config.width
    return numbers * dtype.itemsize
