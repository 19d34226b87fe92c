"""Cache policies, one file per paper. A new file here, or an entry point in the group `dkv.caches`, adds a cache."""

import sys

from dkv.plan import CachePolicy
from dkv.specs import discover, make

__all__ = ["known_caches", "make_cache"]


def known_caches() -> dict[str, type]:
    """Every cache class by the name that a spec calls it."""
    return discover(sys.modules[__name__], "dkv.caches")


def make_cache(spec: str) -> CachePolicy:
    """The cache policy that a spec such as "dkv-decode:refresh=8" asks for. Raises SpecError."""
    policy: CachePolicy = make(spec, known_caches(), "cache")
    return policy
