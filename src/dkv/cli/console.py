"""Where the commands print: consoles that write control codes to a terminal only, and text made safe to show."""

from __future__ import annotations

import re
import sys
from typing import TextIO

from rich.console import Console

__all__ = ["is_terminal", "printable", "say_loading", "stderr_console", "stdout_console"]

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
