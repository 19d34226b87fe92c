"""Packed weights are the same numbers in another layout: products are the plain ones, and saving gives them back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import dkv
from dkv.layers.cpu_linear import Gates, gated, laid_out, laid_out_gates, linear, plain
from tests.support.checkpoints import config_of, dream_config_of, write_checkpoint

SHAPES = [(8, 8), (10, 12), (33, 7), (64, 48), (1, 8)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_the_plain_ones(shape: tuple[int, int], dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(size, generator=draw).to(dtype) for size in (shape, shape[:1]))
    made = laid_out(weight)
    assert plain(made).equal(weight)
    for rows in (1, 3, 8, 70):
        x = torch.randn(rows, 2 * shape[1], generator=draw).to(dtype)
        for given in (x[:, : shape[1]].contiguous(), x[:, : shape[1]]):
            for added in (None, bias):
                expected = F.linear(given.double(), weight.double(), None if added is None else added.double())
                near = 1e-5 if dtype == torch.float32 else 5e-2
                torch.testing.assert_close(linear(given, made, added).double(), expected, rtol=near, atol=near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(8, 8), (10, 12), (34, 7), (64, 48), (2, 8)])
def test_gated_products_are_the_plain_ones(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """In one weight or in two, with the activation in the product or after it."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=draw).to(dtype)
    made = laid_out_gates(weight)
    assert isinstance(made, Gates) == laid_out(weight).is_mkldnn
    assert plain(made).equal(weight)
    for rows in (1, 3, 8, 70):
        x = torch.randn(rows, shape[1], generator=draw).to(dtype)
        gate, up = F.linear(x.double(), weight.double()).chunk(2, dim=1)
        near = 1e-5 if dtype != torch.bfloat16 else 5e-2
        for kept in (made, weight):
            torch.testing.assert_close(gated(x, kept).double(), F.silu(gate) * up, rtol=near, atol=near * 4)


def test_in_float32_a_row_is_alike_in_any_company() -> None:
    draw = torch.Generator().manual_seed(0)
    weight, x = laid_out(torch.randn(96, 64, generator=draw)), torch.randn(200, 64, generator=draw)
    if not weight.is_mkldnn:
        pytest.skip("this torch has no packed kernels")
    gates = laid_out_gates(plain(weight))
    whole, combined = linear(x, weight), gated(x, gates)
    for rows in (1, 2, 5, 8, 31, 64, 199):
        assert linear(x[:rows].contiguous(), weight).equal(whole[:rows])
        assert gated(x[:rows].contiguous(), gates).equal(combined[:rows])


def test_what_has_no_kernel_stays_as_it_is() -> None:
    for weight in (torch.randn(4, 4, dtype=torch.float64), torch.empty(4, 4, device="meta")):
        assert laid_out(weight) is weight
        assert plain(weight) is weight


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_what_is_saved_is_what_was_read(family: str, tmp_path: Path) -> None:
    config = config_of() if family == "llada" else dream_config_of()
    source = write_checkpoint(tmp_path / "source", config)
    dkv.load(source, dtype="float32").save(tmp_path / "copy")
    first, second = (load_file(next(folder.glob("*.safetensors"))) for folder in (source, tmp_path / "copy"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name].float(), second[name]) for name in first)
