"""`dkv caches`: which caches and decoders there are, installed ones included, and what their keys default to."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from dkv.cli import options
from dkv.cli.console import printable, stdout_console

__all__ = ["caches"]


def caches(as_json: options.Json = False) -> None:
    """List the caches and decoders: their names, keys with defaults, and meaning."""
    from dkv.caches import known_caches
    from dkv.decoders import known_decoders

    rooms = {"caches": _described(known_caches()), "decoders": _described(known_decoders())}
    if as_json:
        from dkv.cli.record import print_json

        print_json(rooms)
        return
    for heading, found in rooms.items():
        _print_table(heading.removesuffix("s"), found)


def _described(known: Mapping[str, type]) -> list[dict[str, Any]]:
    return [{"name": name, **_keys(kind), "meaning": _meaning(kind)} for name, kind in known.items()]


def _keys(kind: type) -> dict[str, Any]:
    """Keys with their defaults; those of another package's class may have none."""
    from dkv.specs import keys_of

    keys = keys_of(kind)
    required = [key for key, default in keys.items() if default is inspect.Parameter.empty]
    return {"keys": {k: v for k, v in keys.items() if k not in required}, "required": required}


def _meaning(kind: type) -> str:
    """The first paragraph of the docstring, on one line."""
    return " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())


def _print_table(heading: str, found: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True)
    for title in (heading, "keys and defaults", "meaning"):
        table.add_column(title, overflow="fold")
    for entry in found:
        keys = [f"{key} (required)" for key in entry["required"]]
        keys += [_spell(key, default) for key, default in entry["keys"].items()]
        table.add_row(entry["name"], Text("\n".join(keys)), Text(printable(entry["meaning"])))
    stdout_console().print(table)


def _spell(key: str, default: object) -> str:
    """A key as a spec would spell it with its default; None cannot be spelled."""
    if default is None:
        return f"{key} (not set)"
    return f"{key}={str(default).lower() if isinstance(default, bool) else default}"
