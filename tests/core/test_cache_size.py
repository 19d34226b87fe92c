"""What a cache is said to take is what its run holds."""

from __future__ import annotations

import pytest
import torch

from dkv.caches import make_cache
from dkv.core.cache_size import cache_bytes
from dkv.models import Transformer
from tests.support.runs import POLICIES, start_and_play


@pytest.mark.parametrize("cache", POLICIES)
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_it_is_what_a_run_holds(cache: str, family: str, model: Transformer, dream: Transformer) -> None:
    network = model if family == "llada" else dream
    state, _ = start_and_play(network, [[1, 2, 3], [4, 5, 6]], 6, cache=cache)
    assert cache_bytes(network.config, make_cache(cache), 3, 6, 2, torch.float32) == state.memory.nbytes


def test_features_come_on_top(model: Transformer) -> None:
    plain, featured, first = (
        cache_bytes(model.config, make_cache(spec), 100, 28, 1, torch.bfloat16)
        for spec in ("dkv-decode", "dllm-cache", "dllm-cache:first_layer=false")
    )
    c = model.config
    assert plain == 2 * c.layers * 129 * c.kv_heads * c.head_dim * 2
    assert featured - plain == (c.layers - 1) * 129 * c.width * 2
    assert first - plain == c.layers * 129 * c.width * 2
