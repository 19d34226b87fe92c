"""From rows to a page and its pictures on disk, whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from dkv.bench.page import Picture, page
from dkv.bench.plots import plots_of, png
from dkv.bench.rows import Row
from dkv.errors import SettingError

__all__ = ["write_report"]


def write_report(rows: Sequence[Row], path: Path) -> list[Path]:
    """Write the page at `path`, and each plot beside it as NAME.plot.png. What was written, the page first.

    Raises SettingError where that cannot be.
    """
    plots = [(plot, png(plot.figure)) for plot in plots_of(rows)]
    written = []
    for plot, data in plots:
        written.append(path.with_name(f"{path.stem}.{plot.name}.png"))
        _replace(written[-1], data)
    _replace(path, page(rows, [Picture(plot.caption, data) for plot, data in plots]).encode())
    return [path, *written]


def _replace(path: Path, data: bytes) -> None:
    """Put a file in its place once it is whole."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        raise SettingError(f"out={str(path)!r} cannot be written ({error.strerror or error}); give another") from None
    finally:
        part.unlink(missing_ok=True)
