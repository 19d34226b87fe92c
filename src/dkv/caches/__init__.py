"""Cache policies, one file per paper. A new file here, or an entry point in the group `dkv.caches`, adds a cache."""

from dkv.caches.presets import PRESETS
from dkv.core.policy import CachePolicy
from dkv.core.registry import Registry

__all__ = ["CACHES", "PRESETS", "known_caches", "make_cache"]

CACHES = Registry[CachePolicy](__name__, "cache", PRESETS)
"""Every cache by the name that a spec calls it."""

known_caches, make_cache = CACHES.known, CACHES.make
