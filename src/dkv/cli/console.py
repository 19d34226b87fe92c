"""Where the commands print: consoles that write control codes to a terminal only, and text made safe to show."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TextIO

from rich.console import Console

__all__ = ["is_terminal", "print_json", "print_table", "printable", "say_loading", "stderr_console", "stdout_console"]

# A model's text may hold anything; tabs and line ends are the only control characters that a reader wants acted on.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)")
_PIPE_WIDTH = 120


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is an open terminal."""
    return stream is not None and stream.isatty()


def printable(text: str) -> str:
    """The text with its control characters spelled as escapes, tabs and line ends excepted."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def say_loading(model: str, as_json: bool = False, to_log: bool = False) -> None:
    """Say on standard error that a model is being loaded: seconds pass before anything else is seen. Said at once to a
    person at a terminal who did not ask for JSON. to_log: for output that is not a terminal instead."""
    if is_terminal(sys.stderr) != to_log and not as_json:
        print(printable(f"loading {model} ..."), file=sys.stderr, flush=True)


def stdout_console() -> Console:
    """For results."""
    return _console(sys.stdout)


def stderr_console() -> Console:
    """For what accompanies them."""
    return _console(sys.stderr)


def print_json(value: dict[str, Any]) -> None:
    """One JSON object to standard output. Escapes all but ASCII, so no encoding or control character can spoil it."""
    print(json.dumps(value, indent=2))


def print_table(
    headings: Iterable[str], rows: Iterable[Sequence[str]], left: Collection[str], lines: bool = False, wide: str = ""
) -> None:
    """Print a table to standard output. left: headings of columns of text, others hold figures; lines: between rows;
    wide: the heading of the column that takes the room left."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=lines)
    for heading in headings:
        ratio = 1 if heading == wide else None
        table.add_column(heading, overflow="fold", justify="left" if heading in left else "right", ratio=ratio)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    stdout_console().print(table)


def _console(stream: TextIO) -> Console:
    """Only a terminal gets control codes, whatever FORCE_COLOR and the like say. rich itself honours NO_COLOR."""
    terminal = is_terminal(stream)
    return Console(
        file=stream,
        force_terminal=terminal,
        width=None if terminal else _PIPE_WIDTH,
        markup=False,
        highlight=False,
        emoji=False,
    )
