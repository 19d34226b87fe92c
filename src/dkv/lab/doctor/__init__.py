"""What goes wrong with a cache on a given model and given prompts, measured, with the setting to try: `dkv doctor`.

Nothing here is imported by the engine. Caches are stepped beside no cache (`dkv.lab.study.side_by_side`): `errors` sums
up what differs, `timing` times steps, `rules` turns all of it into findings."""

from __future__ import annotations

__all__: list[str] = []
