"""Help of a command: its options in panels, as plain text that no setting of the environment colours."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

__all__ = ["Command"]

_FIRST = "Arguments"
_OTHERS = "Options"
_TYPE = re.compile(r" <[^<>]*>$")
"""What typer writes behind an argument: its Python type."""


class Command(TyperCommand):
    """A command whose help groups options by their `rich_help_panel`, in the order in which panels first occur."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections of arguments and options."""
        panels: dict[str, list[tuple[str, str]]] = {_FIRST: []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                name, meaning = record
                panels.setdefault(_panel_of(param), []).append((_TYPE.sub("", name), meaning))
        panels[_OTHERS] = panels.pop(_OTHERS, [])  # with --help, last
        for title, records in panels.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _panel_of(param: Any) -> str:
    if param.param_type_name == "argument":
        return _FIRST
    return getattr(param, "rich_help_panel", None) or _OTHERS
