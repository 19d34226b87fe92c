"""The tables that `dkv bench` prints: the columns that fit a terminal; the page of `dkv report` has them all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from dkv.cli.console import printable, stdout_console
from dkv.lab.bench.columns import COLUMNS, growth_lines
from dkv.lab.bench.exponents import growths
from dkv.lab.bench.rows import BenchRow
from dkv.lab.common.grouping import grouped

__all__ = ["print_tables"]

_SHOWN = ("cache", "tokens/s", "s/step", "CPU speed-up", "FLOPs saved", "agreement", "of roofline", "of AR", "J/token")


def print_tables(rows: Sequence[BenchRow]) -> None:
    """A table for each point of the grid, then the exponents."""
    columns = [column for column in COLUMNS if column.title in _SHOWN]
    for group in grouped(rows, lambda row: row.cell.point).values():
        cell = group[0].cell
        print(f"{cell.model}, {cell.numbers}, prompt {cell.prompt}, gen {cell.gen}, batch {cell.batch}")
        lines = [[column.text(row) for column in columns] for row in group]
        kept = [number for number in range(len(columns)) if any(line[number] for line in lines)]
        _print([columns[n].title for n in kept], ([line[n] for n in kept] for line in lines))
    titles, found = growth_lines(growths(rows))
    if found:
        print("growth of the whole cost with the length")
        _print(titles, found)


def _print(titles: Iterable[str], lines: Iterable[Sequence[str]]) -> None:
    table = Table()
    for number, title in enumerate(titles):
        table.add_column(title, justify="right" if number else "left", overflow="fold")
    for line in lines:
        table.add_row(*(Text(printable(text)) for text in line))
    stdout_console().print(table)
