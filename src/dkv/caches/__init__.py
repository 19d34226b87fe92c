"""Cache policies, one file per paper. A new file here, or an entry point in the group `dkv.caches`, adds a cache."""

import sys

from dkv.caches.presets import PRESETS
from dkv.core.policy import CachePolicy
from dkv.core.registry import discover, make
from dkv.core.values import shown
from dkv.errors import SpecError

__all__ = ["PRESETS", "known_caches", "make_cache"]


def known_caches() -> dict[str, type]:
    """Every cache class by the name that a spec calls it."""
    return discover(sys.modules[__name__], "dkv.caches")


def make_cache(spec: str) -> CachePolicy:
    """The cache policy that a spec such as "dkv-decode:refresh=8" or "preset:dllm/gsm8k-instruct" asks for. Raises
    SpecError."""
    policy: CachePolicy = make(_looked_up(spec), known_caches(), "cache")
    return policy


def _looked_up(spec: str) -> str:
    """The spec behind a preset's name. Raises SpecError."""
    kind, _, name = (part.strip() for part in spec.partition(":"))
    if kind != "preset":
        return spec
    if name not in PRESETS:
        raise SpecError(f"cache={shown(spec)}: unknown preset {shown(name)}; known: {', '.join(PRESETS)}")
    return PRESETS[name]
