"""The per-sequence tensors: what is known of slots, and how rows are selected, widened and concatenated."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from dkv.core.canvas import GIVEN, NEVER, Canvas, SequenceState, lay_out
from dkv.errors import AuditError

MASK = 9


def fresh(prompts: list[list[int]], gen: int = 2, guided: bool = False) -> SequenceState:
    canvas = lay_out(prompts, gen, MASK, range(len(prompts)), guided=guided)
    return SequenceState.new(canvas, canvas.tokens.clone())


def tensors(state: SequenceState | Canvas) -> dict[str, Tensor]:
    return {one.name: x for one in fields(state) if isinstance(x := getattr(state, one.name), Tensor)}


def assert_equal(one: SequenceState, other: SequenceState) -> None:
    for mine, theirs in ((one, other), (one.canvas, other.canvas)):
        assert tensors(mine).keys() == tensors(theirs).keys()
        for name, x in tensors(mine).items():
            assert torch.equal(x, tensors(theirs)[name]), name


def test_slots_keep_the_forward_that_computed_them() -> None:
    state = fresh([[1], [2]])
    assert state.computed_at.eq(NEVER).all()
    state.num_forwards = torch.tensor([4, 9])
    state.mark_computed(torch.tensor([[True, True, False], [False, False, True]]))
    state.num_forwards = torch.tensor([5, 10])
    state.mark_computed(torch.tensor([[False, True, False], [False, False, False]]))
    assert state.computed_at.tolist() == [[4, 5, NEVER], [NEVER, NEVER, 9]]


def test_audit_names_the_sequence_and_the_slot() -> None:
    state, readable = fresh([[1], [2]]), torch.ones(2, 3, dtype=torch.bool)
    state.mark_computed(torch.tensor([[True] * 3, [True, True, False]]))
    state.done = torch.tensor([False, True])
    state.audit(readable)
    state.done = torch.tensor([False, False])
    with pytest.raises(AuditError, match="sequence 1 would read slot 2"):
        state.audit(readable)


@pytest.mark.parametrize("guided", [False, True])
def test_sequences_join_as_if_they_had_come_together(guided: bool) -> None:
    prompts = [[1], [2, 3, 4], [5, 6]]
    first, *rest = (fresh([prompt], guided=guided) for prompt in prompts)
    whole = first.cat(rest, 5)
    assert whole.shape == ((6, 5) if guided else (3, 5))
    together = fresh(prompts, guided=guided)
    for name in ("live", "response", "committed_at", "prompt", "length"):
        assert torch.equal(getattr(whole.canvas, name), getattr(together.canvas, name)), name
    if guided:
        assert whole.canvas.unconditional_of is not None
        assert whole.canvas.unconditional_of.tolist() == [-1, 0, -1, 2, -1, 4]
    each = 2 if guided else 1
    for n, one in enumerate((first, *rest)):
        assert_equal(whole.gather(range(n * each, (n + 1) * each), one.shape[1]), one)


def test_what_is_padded_holds_the_fill_values() -> None:
    state = fresh([[1]])
    state.resize_decoder_state(2)
    wide = state.gather([0, 0], 6)
    assert wide.canvas.committed_at[:, 3:].eq(GIVEN).all()
    assert not wide.canvas.live[:, 3:].any()
    assert wide.computed_at[:, 3:].eq(NEVER).all()
    assert wide.order[:, 3:].eq(NEVER).all()
    assert wide.last_confidence[:, 3:].eq(-torch.inf).all()
    assert wide.decoder_state is not None
    assert wide.decoder_state.shape == (2, 6, 2)
    assert wide.canvas.position.tolist() == list(range(6))


def test_scratch_slots_stay_last_and_empty() -> None:
    state = fresh([[1]])
    state.unconditional_hidden = torch.arange(4.0).view(1, 4, 1) + 1
    wide = state.gather([0], 5).unconditional_hidden
    assert wide is not None
    assert wide.flatten().tolist() == [1, 2, 3, 0, 0, 0]


def test_optional_fields_are_zero_for_those_that_lack_them() -> None:
    narrow, wide, none = fresh([[1]]), fresh([[2]]), fresh([[3]])
    narrow.resize_decoder_state(1)
    wide.resize_decoder_state(2)
    assert narrow.decoder_state is not None
    assert wide.decoder_state is not None
    narrow.decoder_state += 1
    wide.decoder_state += 2
    joined = narrow.cat([wide, none], 3).decoder_state
    assert joined is not None
    assert joined[:, 0].tolist() == [[1, 0], [2, 2], [0, 0]]
    assert none.cat([fresh([[4]])], 3).decoder_state is None


def test_every_tensor_says_what_stands_at_padding() -> None:
    """A per-sequence tensor that is declared without its metadata would stay behind when rows move."""
    state = fresh([[1]])
    for part in (state, state.canvas):
        for one in fields(part):
            if "Tensor" in str(one.type) and one.name not in ("position", "unconditional_of"):
                assert "rows" in one.metadata, one.name


def test_a_snapshot_does_not_move_on() -> None:
    state = fresh([[1]])
    before = state.snapshot()
    state.canvas.tokens = state.canvas.tokens + 1
    state.block = state.block + 1
    assert_equal(before, fresh([[1]]))
