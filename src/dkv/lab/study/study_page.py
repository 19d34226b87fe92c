"""Studies as one HTML page that needs nothing but itself, and as one line each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from dkv.lab.common.html import Picture, document, picture, table
from dkv.lab.study.base import Record, Study, Verdict

__all__ = ["Shown", "page", "standing", "verdicts"]

Shown = tuple[Study, Sequence[Record], Verdict, Picture | None]
"""A study, all its records, what follows, and its plot."""

_LONG = 6
"""Lists of more values than this are counted in the table; the file has them in full."""


def standing(verdict: Verdict) -> str:
    """Of a claim, in two or three words."""
    return {True: "held here", False: "did not hold here", None: "cannot tell"}[verdict.held]


def verdicts(shown: Sequence[Shown]) -> str:
    """A Markdown table: what is claimed, and what was measured here."""
    lines = (f"| `{study.name}` | {study.claim} | {standing(v)} | {v.sentence} |\n" for study, _, v, _ in shown)
    return "| study | claim | verdict | measured here |\n|---|---|---|---|\n" + "".join(lines)


def page(shown: Sequence[Shown], facts: Mapping[str, Any]) -> str:
    """The whole page. facts: settings, versions, machine and command, as JSON values by name."""
    summary = ([study.name, standing(verdict), verdict.sentence] for study, _, verdict, _ in shown)
    parts = [
        "<h1>dkv study</h1>",
        f"<p>{escape(', '.join(str(facts[name]) for name in ('model', 'dtype', 'device')))}.</p>",
        "<p>A verdict follows from the records by the rule in docs/study.md; intervals are at 95%, on pairs.</p>",
        table(["study", "verdict", "why"], summary).replace('class="wide"', 'class="wide wrapped"', 1),
        *(part for one in shown for part in _study(*one)),
        "<h2>Settings, versions, machine and command</h2>",
        f"<pre>{escape(json.dumps(dict(facts), indent=2))}</pre>",
    ]
    return document("dkv study", parts)


def _study(study: Study, records: Sequence[Record], verdict: Verdict, plot: Picture | None) -> list[str]:
    return [
        f"<h2>{escape(study.name)}</h2>",
        f"<p>Claim: {escape(study.claim)}</p>",
        f"<p><strong>{standing(verdict)}</strong>: {escape(verdict.sentence)}</p>",
        "" if plot is None else picture(plot),
        _cells(records),
    ]


def _cells(records: Sequence[Record]) -> str:
    if not records:
        return "<p>Nothing was measured.</p>"
    names = list(dict.fromkeys(name for record in records for name in (*record.cell, *record.result)))
    lines = ([_spelled({**record.cell, **record.result}.get(name, "")) for name in names] for record in records)
    return f"<details><summary>{len(records)} cells</summary>{table(names, lines)}</details>"


def _spelled(value: Any) -> str:
    """A JSON value in a cell of a table."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and len(value) > _LONG:
        return _counted(value)
    if isinstance(value, (list, dict)):
        text = json.dumps(value)
        return text if len(text) <= 60 else f"{len(value)} values"
    return "" if value is None else str(value)


def _counted(values: list[Any]) -> str:
    """A long list in brief: right and wrong are counted."""
    if all(isinstance(value, bool) for value in values):
        return f"{sum(values)}/{len(values)}"
    return f"{len(values)} values"
