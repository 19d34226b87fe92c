"""What a policy would compute on a model that is not there: the loop runs, the network does not.

A silent model's answers are all alike, so every confidence ties and text is decided from left to right. Counts of
policies that look at confidences or at the order are those of such a run; all others do not depend on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dkv.core.kv_cache import KVCache
from dkv.core.layer_rules import Rules
from dkv.core.model import ModelConfig
from dkv.core.packing import PackedRows, exact
from dkv.lab.bench.flops import Work, work_of
from dkv.lab.common.engine_batch import EngineBatch, requests_of
from dkv.params import ResolvedParams

__all__ = ["Silent", "replay", "silent_run"]


@dataclass(frozen=True)
class Silent:
    """A model of a config's layers with four ids (text, text, end-of-text, mask) and nothing to say."""

    config: ModelConfig
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    def new_kv_cache(self, batch: int, width: int, dtype: torch.dtype | None = None) -> KVCache:
        """A memory that holds next to nothing."""
        return KVCache(1, batch, 1, width, 1, dtype or self.dtype)

    def forward(self, tokens: Tensor, at: PackedRows, memory: KVCache, rules: Rules) -> Tensor:
        """Zeros [N, 1]."""
        return torch.zeros(len(tokens), 1)

    def logits(self, x: Tensor) -> Tensor:
        """Zeros [M, 4]."""
        return torch.zeros(len(x), 4)


def replay(config: ModelConfig, settings: ResolvedParams, prompt: int, batch: int = 1) -> Iterator[Work]:
    """The work of each forward of `batch` prompts of `prompt` tokens under `settings`, its canvas filled."""
    run = silent_run(config, settings, prompt, batch)
    for output in run.steps():
        yield work_of(output, [prompt + settings.gen_length] * batch, config.layers)


def silent_run(config: ModelConfig, settings: ResolvedParams, prompt: int, batch: int = 1) -> EngineBatch:
    """`batch` prompts of `prompt` tokens under `settings`, for a silent model."""
    silent = Silent(replace(config, width=1, vocab=4, mask_id=3, eos_ids=(2,), pad_id=2))
    settings = replace(settings, stop_at_eos=False)
    return EngineBatch(silent, None, requests_of([[0] * prompt] * batch, settings.seeds(batch), settings), exact)
