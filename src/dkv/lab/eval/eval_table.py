"""Rows as a Markdown table, a JSON value, or cells of any other table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dkv.lab.eval.measured import ResultRow
from dkv.lab.eval.statistics import Difference, Share

__all__ = ["HEADINGS", "as_json", "cells", "markdown"]

HEADINGS = ("task", "decoder", "cache", "score", "against no cache", "agree", "rows", "tokens/s")


def cells(row: ResultRow) -> tuple[str, ...]:
    """What stands under the headings."""
    task = row.task if row.metric == "accuracy" else f"{row.task}: {row.metric}"
    return (
        task,
        str(row.setting),
        row.setting.cache,
        row.score,
        "" if row.difference is None else str(row.difference),
        "" if row.agreement is None else f"{row.agreement.value:.1%}",
        "" if row.rows is None else f"{row.rows:.0%}",
        "" if row.speed is None else f"{row.speed:.1f}",
    )


def markdown(rows: Sequence[ResultRow]) -> str:
    """A table."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *map(cells, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def as_json(row: ResultRow) -> dict[str, Any]:
    """Every figure of a row."""
    return {
        "task": row.task,
        "metric": row.metric,
        **asdict(row.setting),
        "count": row.count,
        "mean": row.mean,
        "standard_error": row.error if row.count > 1 else None,
        "share": _share(row.share),
        "difference": _difference(row.difference),
        "agreement": _share(row.agreement),
        "rows_share": row.rows,
        "tokens_per_second": row.speed,
    }


def _share(share: Share | None) -> dict[str, Any] | None:
    if share is None:
        return None
    return {"right": share.right, "count": share.count, "value": share.value, "interval": list(share.interval)}


def _difference(d: Difference | None) -> dict[str, Any] | None:
    return (
        None if d is None else {**asdict(d), "count": d.count, "value": d.value, "interval": list(d.interval), "p": d.p}
    )
