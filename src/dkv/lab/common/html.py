"""The parts of pages that need nothing but themselves: style, tables, pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Picture", "document", "picture", "table"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; height: auto; } figcaption { color: #444; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 9px; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { border-bottom: 2px solid #888; vertical-align: bottom; }
pre { background: #f5f5f5; padding: .7rem; overflow-x: auto; font-size: 12px; }
.wrapped td { white-space: normal; text-align: left; vertical-align: top; }
dt { font-weight: 600; } dd { margin: 0 0 .3rem 1rem; }
"""


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows."""

    caption: str
    png: bytes


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page of some parts in HTML; empty ones are left out."""
    body = "\n".join(part for part in parts if part)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def picture(shown: Picture) -> str:
    """A picture with its caption, its data inside."""
    data, caption = base64.b64encode(shown.png).decode("ascii"), escape(shown.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def table(titles: Sequence[str], lines: Iterable[Sequence[str]], wrapped: bool = False) -> str:
    """Titles and lines of text; it scrolls where it is too wide. wrapped: long texts go on in further lines."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in line) + "</tr>" for line in lines)
    kind = "wide wrapped" if wrapped else "wide"
    return f'<div class="{kind}"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
