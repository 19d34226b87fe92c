"""Studies as one HTML page that needs nothing but itself, and as one line each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from dkv.lab.common.html import Picture, document, picture, table
from dkv.lab.study.base import Record, Study, Verdict

__all__ = ["Finished", "page", "standing", "verdicts"]

_LONG = 6
"""Lists of more values than this are counted in the table; the file has them in full."""


@dataclass(frozen=True)
class Finished:
    """A study of which every cell is there."""

    study: Study
    records: Sequence[Record]
    verdict: Verdict
    picture: Picture | None  # None where there is nothing to draw


def standing(verdict: Verdict) -> str:
    """Of a claim, in two or three words."""
    return {True: "held here", False: "did not hold here", None: "cannot tell"}[verdict.held]


def verdicts(shown: Sequence[Finished]) -> str:
    """A Markdown table: what is claimed, and what was measured here."""
    rows = (f"| `{f.study.name}` | {f.study.claim} | {standing(f.verdict)} | {f.verdict.sentence} |\n" for f in shown)
    return "| study | claim | verdict | measured here |\n|---|---|---|---|\n" + "".join(rows)


def page(shown: Sequence[Finished], facts: Mapping[str, Any]) -> str:
    """The whole page. facts: settings, versions, machine and command, as JSON values by name."""
    summary = ([f.study.name, standing(f.verdict), f.verdict.sentence] for f in shown)
    parts = [
        "<h1>dkv study</h1>",
        f"<p>{escape(', '.join(str(facts[name]) for name in ('model', 'dtype', 'device')))}.</p>",
        "<p>A verdict follows from the records by the rule in docs/study.md; intervals are at 95%, on pairs.</p>",
        table(["study", "verdict", "why"], summary, wrapped=True),
    ]
    for f in shown:
        parts += [
            f"<h2>{escape(f.study.name)}</h2>",
            f"<p>Claim: {escape(f.study.claim)}</p>",
            f"<p><strong>{standing(f.verdict)}</strong>: {escape(f.verdict.sentence)}</p>",
            "" if f.picture is None else picture(f.picture),
            _cells(f.records),
        ]
    parts += [
        "<h2>Settings, versions, machine and command</h2>",
        f"<pre>{escape(json.dumps(dict(facts), indent=2))}</pre>",
    ]
    return document("dkv study", parts)


def _cells(records: Sequence[Record]) -> str:
    if not records:
        return "<p>Nothing was measured.</p>"
    names = list(dict.fromkeys(name for record in records for name in (*record.cell, *record.result)))
    lines = ([_spelled({**record.cell, **record.result}.get(name, "")) for name in names] for record in records)
    return f"<details><summary>{len(records)} cells</summary>{table(names, lines)}</details>"


def _spelled(value: Any) -> str:
    """A JSON value in a cell of a table; of a long list of right and wrong, how many are right."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and len(value) > _LONG:
        flags = all(isinstance(one, bool) for one in value)
        return f"{sum(value)}/{len(value)}" if flags else f"{len(value)} values"
    if isinstance(value, (list, dict)):
        text = json.dumps(value)
        return text if len(text) <= 60 else f"{len(value)} values"
    return "" if value is None else str(value)
