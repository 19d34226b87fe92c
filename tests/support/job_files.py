"""Input files of batch jobs, and what is in their outputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_lines(path: Path, records: Sequence[object]) -> Path:
    """A file with a record a line; a text stands as it is."""
    lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def prompts(count: int) -> list[dict[str, Any]]:
    """Prompts of many lengths; every fifth has settings of its own."""
    found: list[dict[str, Any]] = []
    for i in range(count):
        record: dict[str, Any] = {"prompt": "count " + "x" * (i % 17) + f" to {i}", "id": f"p{i}"}
        if i % 5 == 0:
            record |= {"gen_length": 4, "cache": "none", "temperature": 1.0}
        found.append(record)
    return found


def results(path: Path) -> list[dict[str, Any]]:
    """The lines of an output; all of them must be whole."""
    content = path.read_bytes()
    assert content.endswith(b"\n") or not content
    return [json.loads(line) for line in content.splitlines()]


def answers(path: Path) -> dict[int, dict[str, Any]]:
    """The lines of an output by number, without what depends on the time; none may be there twice."""
    found = results(path)
    assert len({record["line"] for record in found}) == len(found)
    return {
        record["line"]: {key: value for key, value in record.items() if key not in ("line", "seconds")}
        for record in found
    }
