"""The boundary between the commands and the shell: every way to end becomes an exit code and at most one line.

0: done. 1: the reader of our output went away, or a bug. 2: the user can fix it. 130: Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from dkv.cli.console import is_terminal, printable
from dkv.core.values import nearest
from dkv.errors import DkvError

__all__ = ["forgive_encoding", "guarded"]

_SHOW_CURSOR = "\x1b[?25h"


def guarded(call: Callable[[], object]) -> int:
    """The exit code of `call`, which returns one or nothing. Prints the line of an error to standard error."""
    code = 0
    try:
        forgive_encoding()
        code = _as_code(call())
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        _drop_output()
        code = 1
    except DkvError as error:
        code = _fail(str(error), 2)
    except OSError as error:
        code = _fail(f"{error.filename or 'input or output'}: {error.strerror or error}", 2)
    except Exception as error:
        code = _explain(error)
    if code == 130:
        _show_cursor()
        _forget_interrupt()
    return code


def forgive_encoding() -> None:
    """A character that the output's encoding lacks is written as an escape instead of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _forget_interrupt() -> None:
    """CPython notes a Ctrl-C that passes through code compiled from a string (as dataclasses are, while a module is
    imported), and then ends the process by the signal, although it was caught here. Running such code clears the note.
    """
    exec("")  # noqa: S102


def _show_cursor() -> None:
    """Ctrl-C can land after a live region hid the cursor and before the block that shows it again is entered. Then
    sys.stderr may also still be that region's stand-in, so this goes to the stream that the process began with."""
    stream = sys.__stderr__
    if stream is not None and is_terminal(stream):
        stream.write(_SHOW_CURSOR)
        stream.flush()


def _as_code(value: object) -> int:
    return value if isinstance(value, int) else 0


def _explain(error: Exception) -> int:
    """A usage error of typer's, which no stable name of its own tells apart, or a bug of ours."""
    message = getattr(error, "format_message", None)
    if message is not None:
        context = getattr(error, "ctx", None)
        path = getattr(context, "command_path", "dkv")
        said = _unknown_option(error) or message().strip().rstrip(".")
        return _fail(f"{said}; see {path} --help", 2)
    if os.environ.get("DKV_TRACEBACK"):
        raise error
    return _fail(f"unexpected {type(error).__name__}: {error}; set DKV_TRACEBACK=1 to see where, and report it", 1)


def _unknown_option(error: Exception) -> str | None:
    """The line for an option that the command does not have, with the one that was probably meant, other programs'
    names included; None for another error."""
    name, command = getattr(error, "option_name", None), getattr(getattr(error, "ctx", None), "command", None)
    if not isinstance(name, str) or not hasattr(error, "possibilities"):
        return None
    known = [option for param in getattr(command, "params", []) for option in param.opts if option.startswith("--")]
    options = {option.removeprefix("--").replace("-", "_"): option for option in [*known, "--help"]}
    meant = nearest(name.lstrip("-"), list(options))
    return f"no such option: {name}" if meant is None else f"no such option: {name}; did you mean {options[meant]}?"


def _fail(message: str, code: int) -> int:
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def _drop_output() -> None:
    """Send what is still buffered nowhere, or Python complains about the closed pipe while it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
