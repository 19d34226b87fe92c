"""Logits that are not finite end a request with a line that says so: never a mask, never a token that means nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dkv
from dkv.errors import RequestError
from dkv.lab.eval.likelihood import Likelihood, Pair
from tests.support.checkpoints import config_of, tensors_of, write_checkpoint, write_tokenizer
from tests.support.engine_runs import alone, ended, same

HALF = r"^the logits are not finite in float16, .*dtype='bfloat16' or dtype='float32'$"
FULL = "^the logits are not finite in float32: weights or activations"


class Holed:
    """A model whose hidden states hold `value` where `token` is carried."""

    def __init__(self, inner: Any, token: int, value: float = torch.nan) -> None:
        self.inner, self.token, self.value = inner, token, value

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def forward(self, tokens: Tensor, at: Any, memory: Any, rules: Any) -> Tensor:
        hidden: Tensor = self.inner.forward(tokens, at, memory, rules)
        marked = tokens == self.token
        bad = torch.isin(at.sequence, at.sequence[marked])
        for layer in memory.layers:
            for buffer in layer.buffers.values():
                buffer[at.sequence[marked], :, at.slot[marked]] = self.value
        return torch.where(bad[:, None], self.value, hidden)


@pytest.fixture
def holed(lm: dkv.DiffusionLM) -> dkv.DiffusionLM:
    """Its logits are not finite where a prompt holds the token 201."""
    model: Any = Holed(lm.model, 201)
    return dkv.DiffusionLM(model, lm.tokenizer, lm.name, lm.audit, lm.directory)


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One large channel of an MLP: right in float32 and bfloat16, beyond float16."""
    config = config_of()
    tensors = tensors_of(config)
    for name, tensor in tensors.items():
        if "up_proj" in name:
            tensor[0] *= 3e6
        if "ff_out" in name and "blocks" in name:
            tensor[:, 0] *= 1e-6
    return write_tokenizer(write_checkpoint(tmp_path_factory.mktemp("overflowing"), config, tensors))


def test_an_overflow_in_float16_says_so(overflowing: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        fine = dkv.load(overflowing, device="cpu", dtype=dtype)
        assert fine.model.config.mask_id not in fine.generate("Hi", gen_length=8, stop_at_eos=False)[0].token_ids
    half = dkv.load(overflowing, device="cpu", dtype="float16")
    with pytest.raises(RequestError, match=HALF):
        half.generate("Hi", gen_length=8)
    with pytest.raises(RequestError, match=HALF):
        list(half.stream("Hi", gen_length=8))
    with pytest.raises(RequestError, match=HALF):
        half.infill("a", "b", 4)
    with pytest.raises(RequestError, match=HALF):
        Likelihood(half.model, samples=2).of([Pair((1, 2), (3, 4))])


@pytest.mark.parametrize("cache", ["none", "dkv-decode", "dllm-cache:kp=4,kr=2", "dpad"])
@pytest.mark.parametrize("more", [{}, {"temperature": 1.5, "top_p": 0.9}, {"cfg_scale": 1.0}, {"eos_penalty": 1e6}])
def test_one_prompt_that_is_not_finite_is_dropped_alone(holed: dkv.DiffusionLM, cache: str, more: Any) -> None:
    """Whoever comes to its place later, too, gets what it gets alone."""
    engine = dkv.Engine(holed, active=3)
    options = {"cache": cache, "stop_at_eos": False, **more}
    prompts = [[1, 2], [201, 5] + [7] * 20, [3], [4, 201], *([n] * 3 for n in range(20, 26))]
    requests = [holed.request(p, gen_length=8, seed=n, **options) for n, p in enumerate(prompts)]
    for request in requests:
        engine.add(request)
    errors, results = ended(engine)
    assert sorted(errors) == [1, 3]
    for error in errors.values():
        assert isinstance(error, RequestError)
    assert all(same(results[n], alone(holed, requests[n])) for n in results)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("decoder", ["confidence", "random", "threshold", "maskgit-plus", "entropy-bound", "credit"])
def test_under_every_decoder(lm: dkv.DiffusionLM, decoder: str, value: float) -> None:
    model: Any = Holed(lm.model, 201, value)
    other = dkv.DiffusionLM(model, lm.tokenizer, lm.name, lm.audit, lm.directory)
    with pytest.raises(RequestError, match=FULL):
        other.generate([[1], [201]], gen_length=8, decoder=decoder)
    with pytest.raises(RequestError, match=FULL):
        alone(other, other.request([201], gen_length=8, decoder=decoder))


def test_a_weight_that_is_no_number_is_found(tmp_path: Path) -> None:
    config = config_of()
    tensors = tensors_of(config)
    name = next(name for name in tensors if "ff_out" in name and "blocks" in name)
    tensors[name][0, 0] = torch.nan
    broken = dkv.load(write_checkpoint(tmp_path, config, tensors), device="cpu", dtype="float32")
    with pytest.raises(RequestError, match=FULL):
        broken.generate([[1, 2]], gen_length=4)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("part", ["q_proj", "k_proj", "v_proj", "attn_out", "attn_norm", "ln_f"])
@pytest.mark.usefixtures("built_once")
def test_a_weight_that_is_no_number_is_found_in_every_part(part: str, compiled: bool, tmp_path: Path) -> None:
    """Torch's fused attention on a CPU gives zeros for queries or keys that are all NaN, where there are few."""
    config = config_of()
    tensors = tensors_of(config)
    name = next(name for name in tensors if part in name)
    for value in (torch.nan, torch.inf, -torch.inf):
        tensors[name].view(-1)[5] = value
        place = write_checkpoint(tmp_path, config, tensors)
        broken = dkv.load(place, device="cpu", dtype="float32", compile=compiled)
        for prompt in ([1, 2, 3], list(range(1, 40))):
            with pytest.raises(RequestError, match=FULL):
                broken.generate([prompt], gen_length=6)


def test_a_query_that_overflows_in_float16_says_so(tmp_path: Path) -> None:
    """Beyond float16 in one channel of the first layer's queries and keys."""
    config = config_of()
    tensors = tensors_of(config)
    for name in ("q_proj", "k_proj"):
        tensors[f"model.transformer.blocks.0.{name}.weight"][3] *= 1e5
    half = dkv.load(write_checkpoint(tmp_path, config, tensors), device="cpu", dtype="float16")
    with pytest.raises(RequestError, match=HALF):
        half.generate([[1, 2, 3]], gen_length=6)
