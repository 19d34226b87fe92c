"""Shares of a tensor: together they are the tensor, and no two overlap."""

from __future__ import annotations

import pytest
import torch

from dkv.distributed.shard import Cut


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("dim", [0, 1])
def test_shares_make_up_the_whole(dim: int, ranks: int) -> None:
    whole = torch.arange(35.0).view(5, 7)
    shares = [Cut(dim, rank, ranks).of(whole) for rank in range(ranks)]
    assert torch.equal(torch.cat(shares, dim), whole)
    assert [tuple(s.shape) for s in shares] == [Cut(dim, rank, ranks).shape((5, 7)) for rank in range(ranks)]


def test_spans_by_hand() -> None:
    assert [Cut(0, rank, 4).span(9) for rank in range(4)] == [(0, 3), (3, 3), (6, 3), (9, 0)]
