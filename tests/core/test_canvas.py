"""The canvas: where prompts, masked positions and padding lie, and the choice of lowest entries."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dkv.core.canvas import GIVEN, NEVER, lay_out, lowest

MASK = 99


def test_ragged_prompts_lie_left_and_padding_right() -> None:
    canvas = lay_out([[1, 2, 3], [4]], 2, MASK, [7, 8])
    assert canvas.tokens.tolist() == [[1, 2, 3, MASK, MASK], [4, MASK, MASK, MASK, MASK]]
    assert canvas.prompt.tolist() == [3, 1]
    assert canvas.length.tolist() == [5, 3]
    assert canvas.seed.tolist() == [7, 8]
    assert canvas.position.tolist() == [0, 1, 2, 3, 4]
    assert canvas.live.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert canvas.masked.tolist() == [[False] * 3 + [True] * 2, [False, True, True, False, False]]
    assert canvas.response.equal(canvas.masked)


def test_requests_are_numbered_from_the_first() -> None:
    assert lay_out([[1], [2]], 1, MASK, [0, 0], first_request=5).request.tolist() == [5, 6]


def test_masked_is_never_read_from_the_tokens() -> None:
    """A user's text may hold the mask id, and a fixed token may be anything."""
    canvas = lay_out([[MASK, 1, MASK]], 2, MASK, [0])
    assert canvas.masked.tolist() == [[False, False, False, True, True]]
    assert canvas.committed_at.tolist() == [[GIVEN] * 3 + [NEVER] * 2]


def test_committing_unmasks_but_leaves_the_response() -> None:
    canvas = lay_out([[1]], 2, MASK, [0])
    canvas.committed_at[0, 1] = 0
    assert canvas.masked.tolist() == [[False, False, True]]
    assert canvas.response.tolist() == [[False, True, True]]


def test_lowest_breaks_ties_at_the_lowest_position() -> None:
    key = torch.tensor([[2.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert lowest(key, torch.tensor([2, 3])).tolist() == [[False, True, True, False], [True, True, True, False]]


@given(st.lists(st.lists(st.integers(0, 5), min_size=6, max_size=6), min_size=1, max_size=4), st.data())
def test_lowest_against_sorting(rows: list[list[int]], data: st.DataObject) -> None:
    counts = [data.draw(st.integers(0, 8)) for _ in rows]
    got = lowest(torch.tensor(rows), torch.tensor(counts))
    for row, count, marked in zip(rows, counts, got.tolist(), strict=True):
        assert {i for i, is_marked in enumerate(marked) if is_marked} == set(
            sorted(range(6), key=lambda i: (row[i], i))[:count]
        )
