"""Correlations and overlaps, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dkv.lab.study.correlation import overlap, pearson, ranks, spearman


def test_ranks_put_ties_at_their_mean() -> None:
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]


def test_spearman_sees_order_and_pearson_size() -> None:
    x, y = torch.tensor([0.0, 1.0, 2.0, 100.0]), torch.tensor([2.0, 1.0, 0.0, 100.0])
    # ranks 0 1 2 3 against 2 1 0 3: 1 - 6 * (4 + 0 + 4 + 0) / (4 * 15)
    assert float(spearman(x, y)) == pytest.approx(0.2)
    assert float(pearson(x, y)) > 0.99


def test_each_line_is_treated_on_its_own() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    y = torch.tensor([[1.0, 4.0, 9.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    found = spearman(x, y).tolist()
    assert found[:2] == pytest.approx([1.0, -1.0])
    assert math.isnan(found[2])


def test_overlap_counts_the_highest_of_both() -> None:
    x, y = torch.tensor([9.0, 8.0, 1.0, 0.0]), torch.tensor([9.0, 0.0, 8.0, 1.0])
    assert float(overlap(x, y, 2)) == 0.5
    assert float(overlap(x, x, 2)) == 1.0
    # all tie: the lowest positions are picked
    assert float(overlap(torch.zeros(4), torch.tensor([0.0, 0.0, 5.0, 6.0]), 2)) == 0.0


@given(st.lists(st.integers(-1000, 1000), min_size=3, max_size=20, unique=True))
def test_a_monotone_change_leaves_spearman_at_one(values: list[int]) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    assert float(spearman(x, x * 3 + 1)) == pytest.approx(1.0)
    assert float(spearman(x, -x)) == pytest.approx(-1.0)
