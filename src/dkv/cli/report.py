"""`dkv report`: what `dkv bench` measured as one page with plots and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dkv.cli import options
from dkv.cli.console import print_json, printable
from dkv.errors import SettingError

__all__ = ["report"]

_Files = Annotated[
    list[Path],
    typer.Argument(parser=options.place, metavar="FILE...", help="A file that `dkv bench` wrote.", show_default=False),
]
_Out = Annotated[Path, options.placed("--out", "The page; plots are also saved beside it as PNG.", metavar="FILE")]


def report(files: _Files, out: _Out = Path("report.html"), as_json: options.Json = False) -> None:
    """Turn benchmark FILEs into one HTML page with plots."""
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise SettingError(f"out={str(out)!r} must be a file in a directory that exists")
    from dkv.lab.bench.rows import read_rows

    for path in files:
        if not path.exists():
            raise SettingError(f"file={str(path)!r} does not exist; `dkv bench --out {path}` makes one")
    rows = list({row.key: row for path in files for row in read_rows(path)}.values())
    if not rows:
        raise SettingError(f"file={str(files[0])!r} holds no rows; let `dkv bench` finish a group first")
    from dkv.lab.bench.bench_page import write_report

    written = [str(path) for path in write_report(rows, out)]
    if as_json:
        print_json({"page": written[0], "plots": written[1:], "rows": len(rows)})
        return
    print(printable(f"{len(rows)} rows in {written[0]}, with {len(written) - 1} plots beside it"))
