"""Published settings by name."""

from __future__ import annotations

import pytest

from dkv.caches import PRESETS, make_cache
from dkv.caches.dkv_cache import Decode, Greedy
from dkv.caches.dllm_cache import DllmCache
from dkv.errors import SpecError


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_cache(name: str) -> None:
    assert make_cache(f"preset:{name}") == make_cache(PRESETS[name])


def test_some_by_value() -> None:
    assert make_cache("preset:dllm/gsm8k-instruct") == DllmCache(kp=50, kr=7, rho=0.25)
    assert make_cache("preset:dllm/dream-gsm8k-instruct") == DllmCache(kp=25, kr=2, rho=0.25)
    assert make_cache(" preset: dkv/decode ") == Decode(refresh=8)
    assert make_cache("preset:dkv/dream-decode") == Decode(refresh=4, shift="un")
    assert make_cache("preset:dkv/greedy-window-mbpp") == Greedy(refresh=2, window=2)


def test_unknown_presets_are_listed() -> None:
    with pytest.raises(SpecError, match="unknown preset 'dllm/gsm9k'; known: dkv/decode, dkv/greedy"):
        make_cache("preset:dllm/gsm9k")
