"""Weights of 8 and 4 bits: how far they are from plain ones, what is multiplied by them, who may not have them."""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import dkv
from dkv.checkpoints.tuned_settings import tuned_path
from dkv.checkpoints.weights import Weights
from dkv.errors import SettingError
from dkv.lab.bench.shapes import named_shape, random_model
from dkv.layers import quantized
from dkv.layers.cpu_linear import plain as usual
from dkv.layers.parts import SwiGLU
from dkv.layers.quantized import GROUP, KINDS, Int4Weight, Int8Weight, check_extra, pack, packed_bytes
from dkv.layers.transformer import TransformerBlock
from dkv.models import Transformer, llada
from tests.support.checkpoints import config_of, dream_config_of, write_checkpoint, write_tokenizer

CPU = torch.device("cpu")
CONFIGS = {"llada": config_of(mlp_hidden_size=64), "dream": dream_config_of(intermediate_size=64)}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose sizes are multiples of GROUP."""
    return write_tokenizer(write_checkpoint(tmp_path_factory.mktemp("even"), CONFIGS["llada"], seed=3))


def plain_of(weight: Tensor) -> Tensor:
    """A packed weight [O, C] as numbers, told by what it makes of unit vectors."""
    return F.linear(torch.eye(weight.shape[1], dtype=weight.dtype), weight).T


def drawn(rows: int, columns: int, seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * scale


def parts_of(weight: Tensor) -> tuple[Tensor, ...]:
    assert isinstance(weight, Int8Weight | Int4Weight)
    return weight.parts


def multiplied(block: TransformerBlock) -> list[Any]:
    """The weights that rows of a block are multiplied by."""
    part, mlp = block.attention, block.feed_forward
    assert isinstance(mlp, SwiGLU)
    return [part.qk_weight, part.v_weight, part.out_weight, mlp.gate_up_weight, mlp.down_weight]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9), groups=st.integers(1, 4), seed=st.integers(0, 99), exponent=st.integers(-20, 10),
    shift=st.sampled_from([0.0, 1.0, -3.0]), flat=st.booleans(),
)  # fmt: skip
def test_a_number_moves_by_half_a_step_at_most(
    rows: int, groups: int, seed: int, exponent: int, shift: float, flat: bool
) -> None:
    weight = (drawn(rows, groups * GROUP, seed) + shift) * 2.0**exponent
    if flat:
        weight[0] = weight[0, 0]
        weight[-1] = 0.0
    steps8 = weight.abs().amax(1, keepdim=True) / 127
    assert ((plain_of(pack("int8", weight)) - weight).abs() <= 0.501 * steps8).all()
    grouped = weight.view(rows, groups, GROUP)
    steps4 = (grouped.amax(2, keepdim=True) - grouped.amin(2, keepdim=True)) / 15
    moved = (plain_of(pack("int4", weight)).view_as(grouped) - grouped).abs()
    # the zero points, in float32, are a little off where all numbers of a group lie far from zero
    assert (moved <= 0.501 * steps4 + 1e-5 * grouped.abs().amax(2, keepdim=True)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [0, 1, 7, 64])
def test_a_product_is_that_of_the_numbers_in_every_slab(kind: str, dtype: torch.dtype, count: int) -> None:
    rows, columns = 700, 2048
    weight = pack(kind, drawn(rows, columns, 0, columns**-0.5).to(dtype))
    assert len(weight.slabs) == 2  # type: ignore[attr-defined]
    assert (tuple(weight.shape), weight.dtype, weight.device) == ((rows, columns), dtype, CPU)
    x, bias = drawn(count, columns, 1).to(dtype), drawn(1, rows, 2)[0].to(dtype)
    wanted = x.float() @ plain_of(weight).float().T
    with torch.inference_mode():
        made, biased = F.linear(x, weight), F.linear(x, weight, bias)
    assert (made.shape, made.dtype) == ((count, rows), dtype)
    close = 1e-4 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(made.float(), wanted, rtol=close, atol=close)
    torch.testing.assert_close(biased.float(), wanted + bias.float(), rtol=close, atol=close)


def test_nothing_but_a_product_is_defined() -> None:
    weight = pack("int8", drawn(4, 32, 0))
    with pytest.raises(NotImplementedError, match="of a packed weight"):
        weight + 1
    assert repr(weight) == "Int8Weight([4, 32], torch.float32)"


def test_int8_is_as_good_as_what_torchao_makes() -> None:
    torchao: Any = pytest.importorskip("torchao.quantization")
    weight, x = drawn(40, 96, 5), drawn(5, 96, 6)
    theirs, ours = torchao.Int8Tensor.from_hp(weight, torchao.PerRow()), pack("int8", weight)
    # theirs puts the largest at 127.5 and cuts it off
    torch.testing.assert_close(parts_of(ours)[1] * 127, theirs.scale.flatten().float() * 127.5)
    torch.testing.assert_close(F.linear(x, ours), F.linear(x, theirs), rtol=0.01, atol=0.3)
    assert (plain_of(ours) - weight).norm() < 1.02 * (theirs.dequantize() - weight).norm()


def test_int4_is_what_the_fused_kernel_of_gpus_takes() -> None:
    primitives: Any = pytest.importorskip("torchao.quantization.quant_primitives")
    weight, block = drawn(24, 96, 7), (1, GROUP)
    scale, zero = primitives._choose_qparams_affine_tinygemm(
        weight, primitives.MappingType.ASYMMETRIC, block, torch.int32, 0, 15,
        scale_dtype=torch.float32, zero_point_dtype=torch.float32,
    )  # fmt: skip
    codes = primitives._quantize_affine_tinygemm(weight, block, scale, zero, torch.int32, 0, 15)
    theirs = primitives._dequantize_affine_tinygemm(codes, block, scale, zero, torch.int32, 0, 15)
    ours = pack("int4", weight)
    torch.testing.assert_close(parts_of(ours)[1].flatten(), scale.flatten())
    torch.testing.assert_close(parts_of(ours)[2].flatten(), zero.flatten())
    assert ((plain_of(ours) - theirs).abs() > 1e-5).float().mean() < 0.001


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of NVIDIA")
def test_int4_on_a_gpu_is_what_it_is_on_a_cpu() -> None:
    weight, x = drawn(64, 2048, 0, 0.02).bfloat16(), drawn(9, 2048, 1).bfloat16()
    here, there = F.linear(x, pack("int4", weight)), F.linear(x.cuda(), pack("int4", weight.cuda()))
    torch.testing.assert_close(here, there.cpu(), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_packs_each_weight_of_the_layers(family: str, kind: str, dtype: str, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "m", CONFIGS[family], seed=1)
    plain, packed = (dkv.load(directory, device="cpu", dtype=dtype, quantize=q) for q in (None, kind))
    assert (plain.quantize, packed.quantize) == (None, kind)
    assert isinstance(plain.model, Transformer)
    assert isinstance(packed.model, Transformer)
    for field in ("embedding", "head_weight", "final_norm"):
        assert torch.equal(usual(getattr(packed.model, field)), usual(getattr(plain.model, field)))
    for one, other in zip(plain.model.blocks, packed.model.blocks, strict=True):
        for weight, held in zip(multiplied(one), multiplied(other), strict=True):
            wanted = parts_of(pack(kind, usual(weight)))
            assert all(map(torch.equal, parts_of(held), wanted))
        assert torch.equal(one.attn_norm, other.attn_norm)
        assert (one.attention.qk_bias is None) == (family == "llada")


@pytest.mark.parametrize("kind", KINDS)
def test_no_plain_weight_outlives_the_next(kind: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, alive = Weights.fuse, list[weakref.ref[Tensor]]()

    def watched(self: Weights, parts: Mapping[str, tuple[int, ...]], cut: Any = None) -> Tensor:
        assert sum(ref() is not None for ref in alive) <= 1  # the last one, until its name is taken
        made = read(self, parts, cut)
        if any("proj" in name or "attn_out" in name for name in parts):
            alive.append(weakref.ref(made))
        return made

    monkeypatch.setattr(Weights, "fuse", watched)
    lm = dkv.load(directory, device="cpu", dtype="float32", quantize=kind)
    assert len(alive) == 4 * lm.model.config.layers
    assert all(ref() is None for ref in alive)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_are_as_reckoned(kind: str) -> None:
    config = named_shape("micro")
    model = random_model(config, torch.bfloat16, quantize=kind)
    held = [part for block in model.blocks for weight in multiplied(block) for part in parts_of(weight)]
    plain = [model.embedding, model.head_weight, model.final_norm]
    plain += [norm for block in model.blocks for norm in (block.attn_norm, block.mlp_norm)]
    assert sum(t.nbytes for t in (*held, *plain)) == llada.weight_map(config).nbytes(2, kind)
    assert packed_bytes(None, (6, 32), 2) == 384


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", ["none", "dkv-decode", "dllm-cache", "fast-dual"])
def test_neighbours_change_nothing(kind: str, cache: str, directory: Path) -> None:
    lm = dkv.load(directory, device="cpu", dtype="float32", audit=True, quantize=kind)
    prompts = [[1, 2, 3], [4] * 9, [5, 6]]
    together = lm.generate(prompts, gen_length=8, block_length=4, cache=cache)
    alone = [lm.generate([p], gen_length=8, block_length=4, cache=cache)[0] for p in prompts]
    assert [g.token_ids for g in together] == [g.token_ids for g in alone]


def test_the_embedded_model_answers_the_same_in_8_bits() -> None:
    asked = "Tom has 3 boxes with 4 pens in each. Tom finds 5 more pens. How many pens does Tom have now?"
    plain, packed = (dkv.load("tiny", device="cpu", dtype="float32", quantize=q) for q in (None, "int8"))
    one, other = (lm.generate(asked, gen_length=32)[0] for lm in (plain, packed))
    assert one.text == other.text


def test_an_unknown_kind_is_named_before_anything_is_read() -> None:
    with pytest.raises(SettingError, match=r"^quantize='int3' is unknown; known: int8, int4$"):
        dkv.load("/nowhere", quantize="int3")


def test_ranks_do_not_have_them() -> None:
    with pytest.raises(SettingError, match=r"^quantize='int8' does not go with tensor_parallel=2; use one of them$"):
        dkv.load("/nowhere", quantize="int8", tensor_parallel=2)


def test_4_bits_need_sizes_of_whole_groups(bare: Path) -> None:
    with pytest.raises(
        SettingError, match=r"^quantize='int4' needs sizes that are multiples of 32, and one is 48; use"
    ):
        dkv.load(bare, device="cpu", quantize="int4")
    assert dkv.load(bare, device="cpu", quantize="int8").quantize == "int8"


def test_the_extra_is_asked_for_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    check_extra("int4", CPU, torch.bfloat16)
    monkeypatch.setattr(quantized, "_has_tinygemm", lambda *_: True)
    check_extra("int8", CPU, torch.bfloat16)
    with pytest.raises(SettingError, match=r"pip install 'dkv\[quant\]'"):
        check_extra("int4", CPU, torch.bfloat16)


def test_packed_weights_are_not_saved(directory: Path, tmp_path: Path) -> None:
    lm = dkv.load(directory, device="cpu", quantize="int8")
    with pytest.raises(
        SettingError, match=r"^quantize='int8': the published format has plain weights; load it without"
    ):
        lm.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_settings_that_were_tuned_are_those_of_the_kind(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DKV_HOME", str(tmp_path))
    for kind in (None, "int8"):
        lm = dkv.load(directory, device="cpu", quantize=kind)
        path = tuned_path(directory, kind)
        with pytest.raises(SettingError, match=r"run dkv tune --model \S+" + (r" --quantize int8$" if kind else "$")):
            lm.generate([[1]], gen_length=4, cache="auto")
        path.parent.mkdir(exist_ok=True)
        values: dict[str, Any] = {"cache": "none", "decoder": "random", "budget": "b", "upper": 0.1, "examples": 3}
        path.write_text(json.dumps({"format": "dkv-tuned 1", **values, "speedup": 2.0, "version": "v"}))
        assert lm.generate([[1]], gen_length=4, cache="auto")
