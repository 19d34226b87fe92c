"""Where a step reads, against a plain search."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dkv.core.policy import rows_predicting
from dkv.core.sampling import LogitRows, Sampling


@given(batch=st.integers(1, 4), width=st.integers(1, 9), shift=st.integers(0, 1), seed=st.integers(0, 99))
def test_each_is_read_by_the_row_that_predicts_it(batch: int, width: int, shift: int, seed: int) -> None:
    """In its own sequence and in another one, whichever rows are carried besides."""
    draw = torch.Generator().manual_seed(seed)
    wanted, others = (torch.rand(batch, width, generator=draw) < share for share in (0.5, 0.3))
    rows = rows_predicting(wanted, shift) | others
    rows = (rows | rows.flip(0)) if seed % 3 else torch.ones_like(rows)
    temperature = torch.arange(batch) / 8
    sampling = Sampling(temperature, temperature + 0.5, None, greedy=False)
    found = LogitRows.of(wanted, int(wanted.sum()), rows, bool(rows.all()), shift, sampling)

    places = wanted.nonzero().tolist()
    assert found.shape == (batch, width)
    assert found.flat.tolist() == [row * width + position for row, position in places]
    assert [found.sequence.tolist(), found.position.tolist()] == [[place[n] for place in places] for n in (0, 1)]
    slots = [max(position - shift, 0) for _, position in places]
    assert found.slot.tolist() == slots
    carried = [tuple(place) for place in rows.nonzero().tolist()]
    assert [carried[n] for n in found.row.tolist()] == [
        (place[0], slot) for place, slot in zip(places, slots, strict=True)
    ]
    beside = batch - 1 - found.sequence
    if seed % 3 == 0:
        told = [carried[n] for n in found.row_in(beside).tolist()]
        assert told == list(zip(beside.tolist(), slots, strict=True))
    assert found.sampling.temperature.equal(temperature[found.sequence])
    assert found.sampling.top_p is not None
    assert found.sampling.top_p.equal(found.sampling.temperature + 0.5)
    assert found.sampling.top_k is None
