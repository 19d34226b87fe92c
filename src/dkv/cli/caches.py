"""`dkv caches`: which caches and decoders there are, installed ones included, and what their keys default to."""

from __future__ import annotations

from typing import Any

from dkv.cli import options
from dkv.cli.console import print_json, print_table

__all__ = ["caches"]

_WHICH = """\
The default is dkv-decode with the decoder of the model's family. For the most speed without a measurable loss on the
embedded model: --cache dkv-fill:rows=40 --decoder threshold:tau=0.999. `dkv tune` finds what suits your model."""


def caches(as_json: options.Json = False) -> None:
    """List the caches and decoders with their keys and meaning."""
    from dkv.core.spec_listing import listed

    rooms = {room: listed(room) for room in ("caches", "decoders")}
    if as_json:
        print_json(rooms)
        return
    for heading, found in rooms.items():
        _print_table(heading.removesuffix("s"), found)
    print(_WHICH)


def _print_table(heading: str, found: list[dict[str, Any]]) -> None:
    from dkv.core.registry import spell_key

    titles, rows = (heading, "keys and defaults", "meaning"), []
    for entry in found:
        keys = [f"{key} (required)" for key in entry["required"]]
        keys += [spell_key(key, default) for key, default in entry["keys"].items()]
        rows.append((entry["name"], "\n".join(keys), entry["meaning"]))
    print_table(titles, rows, titles, lines=True)
