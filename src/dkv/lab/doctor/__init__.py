"""What goes wrong with a cache on a given model and given prompts, measured, with the setting to try: `dkv doctor`.

Caches are stepped beside no cache (`dkv.lab.study.side_by_side`): `cache_errors` sums up what differs, `timing` times
steps, `findings` judges all of it."""

from __future__ import annotations

__all__: list[str] = []
