"""A layer in one call computes what the same layer does call by call: the same tokens, and numbers that differ by
rounding at most. What does not fit goes call by call."""

from __future__ import annotations

import gc
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

import dkv
from dkv.accel.native.fused_layers import Known, Whole, whole
from dkv.accel.native.rowwise_ops import Native
from dkv.core.loop import State
from dkv.core.packing import pack
from dkv.layers.cpu_linear import laid_out
from dkv.layers.parts import SwiGLU, has_tiles
from dkv.layers.transformer import TransformerBlock, eager
from dkv.models import Transformer, load_model
from tests.support.checkpoints import config_of, dream_config_of, write_checkpoint
from tests.support.runs import POLICIES, start_and_play

ONE = [[3, 4, 5, 6, 7]]
EVEN = [[3, 4, 5, 6, 7], [9, 10, 11, 12, 13]]
UNEVEN = [[3] * 40, [8], [9, 10], [11], [12]]
LONG = [[token % 200 for token in range(3, 3 + length)] for length in (500, 300)]
RAGGED = [[3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [8], [9, 10, 11]]


@pytest.fixture(scope="module")
def passes(built: Native) -> Native:
    """Built, on machines with a C compiler."""
    if built.library is None:
        pytest.skip(str(built.warmth))
    return built


@pytest.fixture(scope="module", params=["llada-float32", "llada-bfloat16", "dream-float32", "dream-bfloat16"])
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, passes: Native
) -> tuple[Transformer, Transformer]:
    """A model whose layers are done call by call, and in one."""
    family, dtype = request.param.split("-")
    if dtype == "bfloat16" and not (has_tiles() and laid_out(torch.ones(8, 8, dtype=torch.bfloat16)).is_mkldnn):
        pytest.skip("bfloat16 goes call by call on this processor, or at the level that oneDNN is limited to")
    config = config_of() if family == "llada" else dream_config_of()
    directory = write_checkpoint(tmp_path_factory.mktemp("model"), config)
    model = load_model(directory, torch.device("cpu"), getattr(torch, dtype))
    made = whole(model, passes)
    assert isinstance(made.run, Whole)
    assert all(isinstance(block, Known) for block in made.blocks)
    return model.passing(passes), made


@pytest.fixture
def no_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a layer is done call by call."""

    def refuse(*_: object, **__: object) -> Tensor:
        raise AssertionError("done call by call")

    for name in ("dense", "attend_and_write", "mlp", "recompute"):
        monkeypatch.setattr(TransformerBlock, name, refuse)


def played(model: Transformer, cache: str, prompts: list[list[int]], length: int = 8) -> State:
    return start_and_play(model, prompts, length, length // 2, cache=cache)[0]


def same(one: State, other: State, *, exact: bool = False) -> None:
    """The same tokens, and scores and memories that differ by rounding at most.

    `exact` holds only where both make the same calls of torch. Attention of several sequences is not the same call:
    call by call the shorter ones are padded, and heads that share keys get copies of them, in C neither. torch's
    kernel multiplies blocks of queries by MKL's, which sums in another order for another number of rows on some
    processors (AVX2; AMD's). Measured at each of the levels of `make test-dispatch`: at most 2e-6 in scores around 5,
    and in memories of numbers up to 13, in float32.
    """
    assert one.canvas.tokens.equal(other.canvas.tokens)
    near = 0.0 if exact else 2e-5 if one.memory.layers[0].buffers["k"].dtype == torch.float32 else 2e-2
    torch.testing.assert_close(
        other.sequences.last_confidence, one.sequences.last_confidence, rtol=near, atol=near, equal_nan=True
    )
    for mine, its in zip(one.memory.layers, other.memory.layers, strict=True):
        for name, buffer in mine.buffers.items():
            torch.testing.assert_close(its.buffers[name][:, :, :-1], buffer[:, :, :-1], rtol=near, atol=near)


@pytest.mark.parametrize("prompts", [ONE, EVEN, RAGGED], ids=["one", "even", "ragged"])
@pytest.mark.parametrize("cache", POLICIES)
def test_every_cache_computes_the_same(
    models: tuple[Transformer, Transformer], cache: str, prompts: list[list[int]], request: pytest.FixtureRequest
) -> None:
    """To the last bit for one sequence whose heads have keys of their own, where the calls of torch are the same. And
    every layer is one call, whatever the sequences and which slots may be read."""
    config = models[0].config
    exact = prompts is ONE and config.heads == config.kv_heads
    by_calls = played(models[0], cache, prompts)
    request.getfixturevalue("no_way_back")
    same(by_calls, played(models[1], cache, prompts), exact=exact)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("cache", ["none", "dkv-fill:rows=6", "dllm-cache:kp=4,kr=3"])
def test_two_threads_too(models: tuple[Transformer, Transformer], cache: str) -> None:
    """With rows enough for them to share."""
    same(*(played(model, cache, LONG, 4) for model in models))


@pytest.mark.usefixtures("no_way_back")
@pytest.mark.parametrize("cache", POLICIES)
def test_every_layer_is_one_call(models: tuple[Transformer, Transformer], cache: str) -> None:
    """However many rows each sequence has; `test_every_cache_computes_the_same` sees to the others."""
    played(models[1], cache, UNEVEN)


def test_sequences_with_many_rows_beside_few(models: tuple[Transformer, Transformer]) -> None:
    """By torch's calls these attend alone, in C all do: the same rows, in other company."""
    runs = [played(model, "dkv-prefill", UNEVEN) for model in models]
    assert runs[0].canvas.tokens.equal(runs[1].canvas.tokens)
    for one, other in zip(runs[0].memory.layers, runs[1].memory.layers, strict=True):
        torch.testing.assert_close(other.buffers["v"][:, :, :-1], one.buffers["v"][:, :, :-1], rtol=2e-2, atol=2e-2)


@pytest.mark.usefixtures("no_way_back")
def test_a_memory_of_another_dtype_goes_call_by_call(models: tuple[Transformer, Transformer]) -> None:
    model = models[1]
    tokens, at = torch.tensor([3, 4, 5]), pack(torch.ones(1, 3, dtype=torch.bool), [3], None)
    with torch.inference_mode(), pytest.raises(AssertionError, match="call by call"):
        model.forward(tokens, at, model.new_kv_cache(1, 3, torch.float16))


@pytest.mark.parametrize("name", ["dense", "verify"])
def test_what_fails_is_done_call_by_call(models: tuple[Transformer, Transformer], name: str) -> None:
    """A call of torch's that raises, as for want of memory, must not end in wrong numbers."""
    passes, made = models
    calls = copy(cast("Known", made.blocks[0]).calls)
    setattr(calls, name, lambda *_: False)
    without = replace(made, run=Whole(calls, cast("Native", made.passes)))
    same(*(played(model, "dllm-cache:kp=4,kr=3", RAGGED) for model in (passes, without)))


def test_a_call_says_that_torch_failed(models: tuple[Transformer, Transformer]) -> None:
    """Here a product by a weight of another width: it is found out, and nothing crashes."""
    model = models[1]
    wide = torch.ones(8, 8 + model.config.width, dtype=model.dtype)
    first = model.blocks[0]
    mlp = replace(cast("SwiGLU", first.feed_forward), down_weight=laid_out(wide))
    broken = replace(model, blocks=(replace(first, feed_forward=mlp), *model.blocks[1:]))
    tokens, at = torch.tensor([3, 4, 5]), pack(torch.ones(1, 3, dtype=torch.bool), [3], None)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inner product"):
        broken.forward(tokens, at, model.new_kv_cache(1, 3))


def test_weights_that_are_packed_stay_as_they_are(passes: Native, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, config_of())
    for quantize, arrange in (("int8", True), (None, False)):
        model = load_model(directory, torch.device("cpu"), torch.float32, quantize=quantize, arrange=arrange)
        made = whole(model, passes)
        assert made.run is eager
        assert all(type(block) is TransformerBlock and block.passes is passes for block in made.blocks)


def test_another_torch_does_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, passes: Native) -> None:
    monkeypatch.setattr("dkv.accel.native.fused_layers._TORCHS", ("aoti_torch_of_another_release",))
    model = load_model(write_checkpoint(tmp_path, config_of()), torch.device("cpu"), torch.float32)
    made = whole(model, passes)
    assert made.run is eager
    assert all(type(block) is TransformerBlock and block.passes is passes for block in made.blocks)


def test_weights_go_with_the_model(passes: Native, tmp_path: Path) -> None:
    """What C holds of them keeps none alive."""
    model = whole(load_model(write_checkpoint(tmp_path, config_of()), torch.device("cpu"), torch.float32), passes)
    first = cast("Known", model.blocks[0])
    calls, released = copy(first.calls), list[int]()
    release = calls._release

    def spy(handle: int) -> None:
        released.append(handle)
        release(handle)

    setattr(calls, "_release", spy)  # noqa: B010 - typed as a function of C
    block = replace(first, calls=calls)
    held = (block.own.qk, block.own.v, block.own.out, block.own.gate, block.own.up, block.own.down)
    del block
    gc.collect()
    assert sorted(released) == sorted(held)


def test_loading_builds_layers(passes: Native) -> None:
    lm = dkv.load("tiny", dtype="float32", compile=True)
    assert "layers were built in" in str(lm.compile_report["compile"])
    assert isinstance(lm.network, Transformer)
    assert isinstance(lm.network.run, Whole)
