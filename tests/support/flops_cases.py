"""Settings of runs whose operations are counted."""

from __future__ import annotations

from dkv.caches import make_cache
from dkv.decoders import make_decoder
from dkv.params import SamplingParams

GEN = 256


def settings(cache: str) -> SamplingParams:
    return SamplingParams(
        gen_length=GEN, block_length=GEN, steps=GEN, temperature=0.0, top_p=None, top_k=None, cfg_scale=0.0, seed=0,
        cache=make_cache(cache), decoder=make_decoder("confidence"), stop_at_eos=False, cache_dtype=None, stop=(),
    )  # fmt: skip
