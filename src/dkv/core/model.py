"""What the core asks of a model: a few facts, a memory of its shape, a forward over chosen rows, and a head; and the
settings of torch under which it runs.

Architectures live in `dkv.models`; nothing here knows any of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dkv.core.kv_cache import KVCache
from dkv.core.layer_rules import Rules
from dkv.core.packing import PackedRows
from dkv.core.sampling import PLAIN_LOGIT_OPS, LogitOps

__all__ = ["Model", "ModelConfig", "logit_ops_of", "shielded"]


@contextmanager
def shielded() -> Iterator[None]:
    """Settings of torch that a caller has changed around a call, and that must not change what dkv computes: inside,
    autocast is off, the default dtype float32 and the default device the CPU; afterwards all is as it was. Costs next
    to nothing where nothing was changed."""
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        yield


@dataclass(frozen=True)
class ModelConfig:
    """The facts of a checkpoint under one set of names, whatever its family calls them."""

    family: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    """Size of an attention head."""
    mlp_width: int
    vocab: int
    context: int
    """Most positions that it was trained for."""
    norm_eps: float
    rope_theta: float
    mask_id: int
    eos_ids: tuple[int, ...]
    pad_id: int
    shift: int
    """1 where row p predicts token p + 1, else 0."""
    tied: bool
    """Whether the head is the embedding."""
    default_decoder: str
    """The spec of the family's own unmasking rule."""
    rotary_dim: int | None = None
    """How many channels of each head are rotated, the first ones; None = all."""


class Model(Protocol):
    """A network that can compute any subset of rows."""

    @property
    def config(self) -> ModelConfig:
        """Its facts."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Its weights' dtype."""
        ...

    def new_kv_cache(self, batch: int, width: int, dtype: torch.dtype | None = None) -> KVCache:
        """A memory for `batch` sequences of `width` slots."""
        ...

    def forward(self, tokens: Tensor, at: PackedRows, memory: KVCache, rules: Rules) -> Tensor:
        """Carry the rows `at`, holding tokens [N], through every layer under its rule: hidden states [N, C]."""
        ...

    def logits(self, x: Tensor) -> Tensor:
        """Head of hidden states [M, C]: [M, V], as it multiplies them; whoever computes with them widens them first."""
        ...


def logit_ops_of(model: Model) -> LogitOps:
    """How tokens are found from a model's logits: its own `logit_ops`, if it has some."""
    found: LogitOps = getattr(model, "logit_ops", PLAIN_LOGIT_OPS)
    return found
