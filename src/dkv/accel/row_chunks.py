"""Logits on a CPU, a few rows at a time: each row is passed over several times, and should stay in its second-level
cache. With 128 rows of 126,464 logits that takes a quarter to a half of the time (benchmarks/compiled.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from dkv.core.sampling import LogitOps

__all__ = ["RowChunks"]

_AT_ONCE = 1 << 17
"""Logits that are passed over at once."""


class RowChunks(LogitOps):
    """The same results to the last bit, since each row's depend on that row alone."""

    def argmax_with_logprob(self, logits: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
        """The most likely token [M] of each row of logits [M, V] but for the mask token, and its log-probability."""
        rows = _rows_of(logits)
        if len(logits) <= rows:
            return super().argmax_with_logprob(logits, mask_id)
        parts = [super(RowChunks, self).argmax_with_logprob(part, mask_id) for part in torch.split(logits, rows)]
        tokens, logprobs = zip(*parts, strict=True)
        return torch.cat(tokens), torch.cat(logprobs)

    def log_confidence(self, logits: Tensor, token: Tensor) -> Tensor:
        """Log-probability [M] of token [M] under softmax of logits [M, V]."""
        rows = _rows_of(logits)
        if len(logits) <= rows:
            return super().log_confidence(logits, token)
        parts = zip(torch.split(logits, rows), torch.split(token, rows), strict=True)
        return torch.cat([super(RowChunks, self).log_confidence(*part) for part in parts])


def _rows_of(logits: Tensor) -> int:
    return max(1, _AT_ONCE // logits.shape[1])
