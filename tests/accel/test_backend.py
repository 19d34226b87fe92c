"""What `load` runs a network with: the same bits as the network as it is, and reports of what was prepared."""

from __future__ import annotations

import pytest
import torch

from dkv.accel.backend import choose_backend, plain_backend
from dkv.accel.inductor import Compiled
from dkv.core.kv_cache import PLAIN_CACHE_OPS
from dkv.core.packing import exact
from dkv.core.sampling import PLAIN_LOGIT_OPS
from dkv.layers.transformer import sixteenths
from dkv.models import Transformer
from tests.support.runs import POLICIES, start_and_play

CPU, GPU = torch.device("cpu"), torch.device("cuda")
PROMPTS = [[3, 4, 5, 6, 7], [8], [9, 10, 11]]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("cache", POLICIES)
def test_the_operations_of_a_cpu_give_the_same_bits(model: Transformer, cache: str, temperature: float) -> None:
    fast = choose_backend(model, CPU).network
    assert isinstance(fast, Transformer)
    assert fast.cache_ops is not PLAIN_CACHE_OPS
    assert fast.logit_ops is not PLAIN_LOGIT_OPS
    plain, quick = (start_and_play(m, PROMPTS, 12, 6, cache=cache, temperature=temperature)[0] for m in (model, fast))
    assert plain.canvas.tokens.equal(quick.canvas.tokens)
    assert plain.sequences.last_confidence.equal(quick.sequences.last_confidence)
    for one, other in zip(plain.memory.layers, quick.memory.layers, strict=True):
        for name, buffer in one.buffers.items():
            assert buffer[:, :, :-1].equal(other.buffers[name][:, :, :-1])


def test_reports_and_buckets_are_those_of_what_was_asked_for(model: Transformer) -> None:
    plain = plain_backend(model)
    assert plain.network is plain.model is model
    assert plain.bucket is exact
    assert not plain.compiled
    assert choose_backend(model, CPU).reports == {}
    elsewhere = choose_backend(model, GPU, compile=True, cuda_graphs=True)
    assert set(elsewhere.reports) == {"compile", "cuda_graphs"}
    assert elsewhere.compiled
    assert elsewhere.model is not elsewhere.network
    assert elsewhere.bucket(100) == sixteenths(100)
    assert isinstance(elsewhere.network, Transformer)
    assert isinstance(elsewhere.network.run, Compiled)
    assert elsewhere.network.cache_ops is PLAIN_CACHE_OPS
