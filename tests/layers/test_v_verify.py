"""V-verify: what each row of a layer comes to, and what the layer keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dkv.core.kv_cache import LayerCache
from dkv.core.packing import Bucket, Counted, PackedRows, exact, pack, select_rows
from dkv.layers.transformer import sixteenths
from dkv.layers.v_verify import ADDED, Verify
from dkv.models import Transformer


def placed(rows: Tensor, forced: Tensor, budget: int, bucket: Bucket) -> PackedRows:
    """Where carried rows [B, T] sit, of which each layer picks the forced ones and `budget` more."""
    counts = rows.sum(1)
    picks = torch.minimum((forced & rows).sum(1) + budget, counts)
    at = pack(rows, counts.tolist(), None, bucket)
    all_of, some_of = (Counted(each.tolist(), each) for each in (counts, picks))
    return replace(at, selection=select_rows(at, all_of, some_of, forced & rows, None, bucket))


def memory_of(model: Transformer, batch: int, width: int) -> LayerCache:
    """A layer's memory in which something is kept already."""
    memory = model.new_kv_cache(batch, width)
    memory.layers[0].buffers[ADDED] = torch.zeros(batch, 1, width + 1, model.config.width)
    for buffer in memory.layers[0].buffers.values():
        buffer.normal_(generator=torch.Generator().manual_seed(3))
    return memory.layers[0]


@pytest.mark.parametrize("bucket", [exact, sixteenths])
@given(batch=st.integers(1, 3), width=st.integers(2, 20), budget=st.integers(0, 6), seed=st.integers(0, 99))
def test_picked_rows_are_computed_and_others_add_what_is_kept(
    model: Transformer, bucket: Bucket, batch: int, width: int, budget: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    rows, forced = torch.rand(batch, width, generator=draw) < 0.8, torch.rand(batch, width, generator=draw) < 0.2
    at, block, memory = placed(rows, forced, budget, bucket), model.blocks[0], memory_of(model, batch, width)
    x, turn = torch.randn(len(at.slot), model.config.width, generator=draw), model.rotary.turn(at.slot)
    before, given_x = memory.take(ADDED, at)[:, 0], x.clone()
    out = Verify("cosine", adaptive=True)(block, x, at, turn, memory)
    assert x.equal(given_x)
    real, after = at.slot < width, memory.take(ADDED, at)[:, 0]
    changed = (after != before).any(1) & real
    assert int(changed.sum()) == int(at.required_selection.picks.sum())
    assert out[real & ~changed].equal((x + before)[real & ~changed])
    # What was computed: attention over the cells as they are by now, then the feed-forward.
    q, _ = block.attention.qk(block.norm(x, block.attn_norm), turn)
    attended = block.attention.attend(q, *memory.kv, at)
    between = x + attended
    more = block.mlp(between)
    torch.testing.assert_close(out[changed], (between + more)[changed], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after[changed], (attended + more)[changed], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bucket", [exact, sixteenths])
def test_a_layer_that_picks_all_is_the_ordinary_one(model: Transformer, bucket: Bucket) -> None:
    """To the last bit, also of what is not computed again."""
    rows = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    at, block = placed(rows, rows, 0, bucket), model.blocks[0]
    one, other = (memory_of(model, 2, 7) for _ in "ab")
    x, turn = torch.randn(len(at.slot), model.config.width), model.rotary.turn(at.slot)
    whole, real = block.dense(x, at, turn, one), at.slot < 7
    assert Verify("cosine", adaptive=True)(block, x, at, turn, other)[real].equal(whole[real])


def test_a_rule_may_recompute_all_that_it_carries(model: Transformer) -> None:
    """Rows that no layer picked from are the picked ones; other slots keep what they had."""
    rows = torch.tensor([[True, False, True, True, False]])
    at, block, (one, other) = pack(rows, [3], None), model.blocks[0], (memory_of(model, 1, 5) for _ in "ab")
    x, turn = torch.randn(3, model.config.width), model.rotary.turn(at.slot)
    before = other.buffers[ADDED].clone()
    out = block.recompute(x, block.norm(x, block.attn_norm), at, at, turn, other, ADDED)
    assert out.equal(block.dense(x, at, turn, one))
    changed = (other.buffers[ADDED] != before).any(3)[0, 0]
    assert changed.tolist() == [*rows[0].tolist(), False]
