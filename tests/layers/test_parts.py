"""Attention of a sequence's rows, in what company they are."""

from __future__ import annotations

import pytest
import torch

from dkv.layers.parts import attention

LARGEST = 32


@pytest.mark.parametrize(("heads", "keys"), [(4, 4), (4, 2)], ids=["own keys", "shared keys"])
@pytest.mark.parametrize("slots", [24, 300])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 13, 31])
def test_in_float32_company_changes_attention_by_rounding_at_most(rows: int, slots: int, heads: int, keys: int) -> None:
    """Alone, or padded beside a sequence of more rows and more slots. To the last bit it does not hold: torch's kernel
    multiplies by MKL's, which sums in another order for another number of rows (measured: at most 4e-7)."""
    draw = torch.Generator().manual_seed(rows)
    q = torch.randn(2, heads, LARGEST, 16, generator=draw)
    k, v = (torch.randn(2, keys, slots + 5, 16, generator=draw) for _ in "kv")
    seen = (torch.arange(slots + 5) < torch.tensor([[slots + 5], [slots]]))[:, None, None]
    beside = attention(q, k, v, seen)[1:, :, :rows]
    alone = attention(q[1:, :, :rows], k[1:, :, :slots], v[1:, :, :slots], None)
    torch.testing.assert_close(beside, alone, rtol=2e-6, atol=2e-6)
