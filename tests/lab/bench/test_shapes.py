"""Named shapes are the published ones; overrides; random weights that run."""

from __future__ import annotations

import pytest
import torch

from dkv import SpecError
from dkv.lab.bench.shapes import SHAPES, named_shape, random_model
from dkv.layers.cpu_linear import plain
from dkv.models import dream, llada
from tests.support.runs import start_and_play


def test_the_large_ones_have_as_many_parameters_as_published() -> None:
    assert llada.weight_map(SHAPES["llada-8b"]).parameters == 8_015_581_184
    assert dream.weight_map(SHAPES["dream-7b"]).parameters == 7_615_616_512


def test_sizes_are_changed_and_the_rest_follows() -> None:
    got = named_shape("dream-7b, heads=14 ,layers=2,vocab=100")
    assert (got.heads, got.kv_heads, got.head_dim, got.layers, got.width) == (14, 2, 256, 2, 3584)
    assert (got.mask_id, got.pad_id, got.eos_ids) == (99, 98, (97,))
    assert named_shape("dream-7b,head_dim=64").kv_heads == 4
    assert named_shape("llada-8b").head_dim == 128


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("llama", "unknown name 'llama'; known: dream-7b, llada-8b"),
        ("micro,depth=2", "unknown key 'depth'; a shape takes: context"),
        ("micro,layers", "write layers=VALUE, once"),
        ("micro,layers=1,layers=2", "write layers=VALUE, once"),
        ("micro,layers=0", "layers='0' must be a whole number"),
        ("micro,layers=-1", "layers='-1' must be a whole number"),
        ("micro,layers=99999999999", "must be a whole number"),
        ("micro,head_dim=3", "head_dim be even"),
        ("micro,kv_heads=3", "kv_heads must divide heads"),
        ("micro,vocab=3", "vocab at least 4"),
    ],
)
def test_what_is_wrong_with_a_spec(spec: str, expected: str) -> None:
    with pytest.raises(SpecError, match="shape=") as caught:
        named_shape(spec)
    assert expected in str(caught.value)


@pytest.mark.parametrize("spec", ["micro", "dream-7b,width=32,heads=4,kv_heads=2,layers=2,mlp_width=48,vocab=64"])
def test_random_weights_run(spec: str) -> None:
    network = random_model(named_shape(spec), torch.bfloat16)
    assert network.dtype == torch.bfloat16
    assert (network.blocks[0].attention.qk_bias is None) == (spec == "micro")
    state, ticks = start_and_play(network, [[1, 2, 3]], 4, cache="dkv-decode")
    assert len(ticks) == 4
    assert not state.canvas.masked.any()


def test_random_weights_are_the_same_for_the_same_seed() -> None:
    drawn = [random_model(SHAPES["micro"], torch.float32, seed) for seed in (1, 1, 2)]
    first, second, other = (plain(network.head_weight) for network in drawn)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_usual_layout_holds_the_same_weights() -> None:
    arranged, usual = (random_model(SHAPES["micro"], torch.float32, 1, arrange=a) for a in (True, False))
    assert not usual.head_weight.is_mkldnn
    assert torch.equal(plain(arranged.head_weight), usual.head_weight)
    assert torch.equal(plain(arranged.blocks[1].attention.qk_weight), usual.blocks[1].attention.qk_weight)


def test_a_tied_head_is_the_embedding() -> None:
    from dataclasses import replace

    network = random_model(replace(SHAPES["micro"], tied=True), torch.float32)
    assert network.head_weight is network.embedding
