"""A benchmark as one HTML page: plots, tables, settings and versions in full; and its plots as files beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from dkv.lab.bench.bench_charts import plots_of
from dkv.lab.bench.columns import COLUMNS, Column, growth_lines
from dkv.lab.bench.exponents import growths
from dkv.lab.bench.rows import BenchRow
from dkv.lab.common.html import Picture, document, picture, table
from dkv.storage.atomic import write_whole
from dkv.storage.extras import module_of

__all__ = ["page", "write_report"]


def write_report(rows: Sequence[BenchRow], path: Path) -> list[Path]:
    """Write the page at `path`, and each plot beside it as NAME.plot.png, each whole or not at all. What was written,
    the page first. Raises SettingError where that cannot be, or matplotlib is missing."""
    png = module_of("plots", "dkv.lab.common.plots").png
    written, pictures = [path], []
    for plot in plots_of(rows):
        pictures.append(Picture(plot.caption, png(plot.chart)))
        written.append(path.with_name(f"{path.stem}.{plot.name}.png"))
    for place, shown in zip(written[1:], pictures, strict=True):
        write_whole(place, shown.png)
    write_whole(path, page(rows, pictures).encode())
    return written


def page(rows: Sequence[BenchRow], pictures: Iterable[Picture]) -> str:
    """The whole page."""
    shown = [column for column in COLUMNS if any(column.text(row) for row in rows)]
    blank = [column.title for column in COLUMNS if column not in shown]
    parts = [
        "<h1>dkv bench</h1>",
        _facts(rows),
        "<h2>Plots</h2>",
        *map(picture, pictures),
        "<h2>Measurements</h2>",
        "<p>Medians of the repeats; after ± the farthest repeat.</p>",
        table([column.title for column in shown], ([column.text(row) for column in shown] for row in rows)),
        f"<p>Not measured here: {escape(', '.join(blank))}.</p>" if blank else "",
        _growths(rows),
        "<h2>What the columns mean</h2>",
        _meanings(shown),
        "<h2>Settings, versions and machine</h2>",
        _settings(rows),
    ]
    return document("dkv bench", parts)


def _facts(rows: Sequence[BenchRow]) -> str:
    models = ", ".join(dict.fromkeys(row.cell.model for row in rows))
    processors = ", ".join(dict.fromkeys(str(row.environment["machine"].get("accelerator") or
                                             row.environment["machine"]["processor"]) for row in rows))  # fmt: skip
    threads = ", ".join(dict.fromkeys(str(row.cell.threads) for row in rows))
    return f"<p>{len(rows)} rows of {escape(models)} on {escape(processors)}, {escape(threads)} threads.</p>"


def _growths(rows: Sequence[BenchRow]) -> str:
    titles, lines = growth_lines(growths(rows))
    if not lines:
        return ""
    return (
        "<h2>Growth of the whole cost with the length</h2>\n<p>Least squares over the lengths measured, all else "
        f"equal; after ± the standard error, where there are more than two lengths.</p>\n{table(titles, lines)}"
    )


def _meanings(columns: Iterable[Column]) -> str:
    items = (f"<dt>{escape(c.title)}</dt><dd>{escape(c.meaning)}</dd>" for c in columns)
    return f"<dl>{''.join(items)}</dl>"


def _settings(rows: Sequence[BenchRow]) -> str:
    """Settings and environment of all rows: what they share once, what differs as the values that occur."""
    settings: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in {**row.record["settings"], "cache": row.spec}.items():
            settings.setdefault(name, {})[json.dumps(value)] = None
    lines = [f"{name}: {', '.join(values)}" for name, values in settings.items()]
    machines = dict.fromkeys(json.dumps(row.environment, indent=2) for row in rows)
    return "\n".join(f"<pre>{escape(text)}</pre>" for text in ("\n".join(lines), *machines))
