"""Settings of runs whose operations are counted."""

from __future__ import annotations

from dkv.caches import make_cache
from dkv.decoders import make_decoder
from dkv.params import ResolvedParams, SamplingParams

GEN = 256


def settings(cache: str) -> ResolvedParams:
    params = SamplingParams(gen_length=GEN, stop_at_eos=False)
    return params.resolve(make_cache(cache), make_decoder("confidence"), 0)
