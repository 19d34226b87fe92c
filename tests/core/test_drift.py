"""How far values moved: over all heads, in float32, and rounding is no movement."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor

from dkv.core.drift import drift


def test_drift_spans_all_heads() -> None:
    new, old = torch.randn(2, 7, 2, 4, generator=torch.Generator().manual_seed(1))
    told = torch.nn.functional.cosine_similarity(new.flatten(1), old.flatten(1), dim=1)
    torch.testing.assert_close(drift(new, old, "cosine"), 1 - told)
    torch.testing.assert_close(drift(new, old, "l2"), (new - old).flatten(1).norm(dim=1))


def test_bfloat16_values_do_not_tie() -> None:
    """Cosines in bfloat16 would all be 1 here."""
    old = torch.ones(3, 1, 64, dtype=torch.bfloat16)
    new = old.clone()
    new[1, 0, :8], new[2, 0, :4] = 1.0625, 1.0625
    got = drift(new, old, "cosine")
    assert got.dtype == torch.float32
    assert got[0] == 0 < got[2] < got[1] < 1e-3


def test_small_turns_are_told_from_growth() -> None:
    """1 - cosine in float32 would round both away; growing is no turning."""
    old = torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(1))
    aside = torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(2)) * 1e-4
    new = old * torch.tensor([1.0, 1.01, 1.0])[:, None, None] + aside * torch.tensor([1.0, 0.0, 2.0])[:, None, None]
    exact = 1 - torch.nn.functional.cosine_similarity(new.double().flatten(1), old.double().flatten(1), dim=1)
    got = drift(new, old, "cosine")
    torch.testing.assert_close(got[[0, 2]].double(), exact[[0, 2]], rtol=2e-2, atol=0)
    assert got[1] < got[0] / 10


def test_what_had_no_length_has_moved() -> None:
    old, new = torch.zeros(2, 1, 4), torch.ones(2, 1, 4)
    assert drift(new, old, "cosine").tolist() == [1, 1]
    assert drift(old, new, "cosine").tolist() == [1, 1]


def test_rounding_is_not_drift() -> None:
    old = torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(1))
    for similarity in ("cosine", "l2"):
        assert drift(old * (1 + 2e-7), old, similarity).eq(0).all()
        assert drift(old + 1e-3, old, similarity).gt(0).all()


@pytest.mark.parametrize("similarity", ["cosine", "l2"])
def test_heads_on_two_ranks_drift_as_one(similarity: str) -> None:
    """Two threads with two of four heads each, which add up their squares."""
    new, old = torch.randn(2, 9, 4, 3, generator=torch.Generator().manual_seed(1))
    old[0], old[1], new[2] = new[0], 0, 0
    squares, meet = [torch.empty(0)] * 2, Barrier(2)

    def of_half(rank: int) -> Tensor:
        def lengths(new: Tensor, old: Tensor) -> Sequence[Tensor]:
            squares[rank] = torch.stack((new, old, new - old)).square().sum(2)
            meet.wait(timeout=30)
            both = (squares[0] + squares[1]).sqrt()
            meet.wait(timeout=30)
            return both.unbind()

        half = slice(2 * rank, 2 * rank + 2)
        return drift(new[:, half], old[:, half], similarity, lengths)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(of_half, range(2))
    assert torch.equal(first, second)
    assert first[0] == 0
    torch.testing.assert_close(first, drift(new, old, similarity))
