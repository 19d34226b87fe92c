"""From rows to a page and its pictures on disk, whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dkv.lab.bench.bench_page import page
from dkv.lab.bench.html import Picture
from dkv.lab.bench.plots import plots_of, png
from dkv.lab.bench.rows import BenchRow
from dkv.storage.atomic_file import write_whole

__all__ = ["write_report"]


def write_report(rows: Sequence[BenchRow], path: Path) -> list[Path]:
    """Write the page at `path`, and each plot beside it as NAME.plot.png. What was written, the page first.

    Raises SettingError where that cannot be.
    """
    plots = [(plot, png(plot.figure)) for plot in plots_of(rows)]
    written = []
    for plot, data in plots:
        written.append(path.with_name(f"{path.stem}.{plot.name}.png"))
        write_whole(written[-1], data)
    write_whole(path, page(rows, [Picture(plot.caption, data) for plot, data in plots]).encode())
    return [path, *written]
