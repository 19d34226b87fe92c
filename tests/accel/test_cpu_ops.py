"""Logits a few rows at a time: the same bits as all at once."""

from __future__ import annotations

import pytest
import torch

from dkv.accel.cpu_ops import RowChunks
from dkv.core.sampling import PLAIN_LOGIT_OPS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "vocab"), [(0, 12), (3, 12), (40, 2048), (1100, 288), (5, 50_000), (3, 126_464), (2, 192_000)]
)
def test_the_results_are_those_of_plain_torch(rows: int, vocab: int, dtype: torch.dtype) -> None:
    logits = (3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(2))).to(dtype)
    logits[::2, 7] += 20
    before, token = logits.clone(), torch.arange(rows) % vocab
    found, expected = (ops.argmax_with_logprob(logits, 7) for ops in (RowChunks(), PLAIN_LOGIT_OPS))
    assert found[0].equal(expected[0])
    assert found[1].equal(expected[1])
    assert RowChunks().log_confidence(logits, token).equal(PLAIN_LOGIT_OPS.log_confidence(logits, token))
    assert logits.equal(before)
