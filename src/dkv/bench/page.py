"""A benchmark as one HTML page that needs nothing but itself: plots inside, tables, settings and versions in full."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from dkv.bench.columns import COLUMNS, Column, growth_lines
from dkv.bench.exponents import growths
from dkv.bench.rows import Row

__all__ = ["Picture", "page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; height: auto; } figcaption { color: #444; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 9px; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { border-bottom: 2px solid #888; vertical-align: bottom; }
pre { background: #f5f5f5; padding: .7rem; overflow-x: auto; font-size: 12px; }
dt { font-weight: 600; } dd { margin: 0 0 .3rem 1rem; }
"""


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows."""

    caption: str
    png: bytes


def page(rows: Sequence[Row], pictures: Iterable[Picture]) -> str:
    """The whole page."""
    shown = [column for column in COLUMNS if any(column.text(row) for row in rows)]
    blank = [column.title for column in COLUMNS if column not in shown]
    parts = [
        "<h1>dkv bench</h1>",
        _facts(rows),
        "<h2>Plots</h2>",
        *map(_picture, pictures),
        "<h2>Measurements</h2>",
        "<p>Medians of the repeats; after ± the farthest repeat.</p>",
        _table([column.title for column in shown], ([column.text(row) for column in shown] for row in rows)),
        f"<p>Not measured here: {escape(', '.join(blank))}.</p>" if blank else "",
        _growths(rows),
        "<h2>What the columns mean</h2>",
        _meanings(shown),
        "<h2>Settings, versions and machine</h2>",
        _settings(rows),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>dkv bench</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _facts(rows: Sequence[Row]) -> str:
    models = ", ".join(dict.fromkeys(row.cell.model for row in rows))
    processors = ", ".join(dict.fromkeys(str(row.environment["machine"].get("accelerator") or
                                             row.environment["machine"]["processor"]) for row in rows))  # fmt: skip
    threads = ", ".join(dict.fromkeys(str(row.cell.threads) for row in rows))
    return f"<p>{len(rows)} rows of {escape(models)} on {escape(processors)}, {escape(threads)} threads.</p>"


def _picture(picture: Picture) -> str:
    data, caption = base64.b64encode(picture.png).decode("ascii"), escape(picture.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _table(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in line) + "</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _growths(rows: Sequence[Row]) -> str:
    titles, lines = growth_lines(growths(rows))
    if not lines:
        return ""
    return (
        "<h2>Growth of the whole cost with the length</h2>\n<p>Least squares over the lengths measured, all else "
        f"equal; after ± the standard error, where there are more than two lengths.</p>\n{_table(titles, lines)}"
    )


def _meanings(columns: Iterable[Column]) -> str:
    items = (f"<dt>{escape(c.title)}</dt><dd>{escape(c.meaning)}</dd>" for c in columns)
    return f"<dl>{''.join(items)}</dl>"


def _settings(rows: Sequence[Row]) -> str:
    """Settings and environment of all rows: what they share once, what differs as the values that occur."""
    settings: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in {**row.record["settings"], "cache": row.spec}.items():
            settings.setdefault(name, {})[json.dumps(value)] = None
    lines = [f"{name}: {', '.join(values)}" for name, values in settings.items()]
    machines = dict.fromkeys(json.dumps(row.environment, indent=2) for row in rows)
    return "\n".join(f"<pre>{escape(text)}</pre>" for text in ("\n".join(lines), *machines))
