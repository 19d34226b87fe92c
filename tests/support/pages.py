"""The pages of the documentation, and what their text names: tables, links, files."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["PAGES", "ROOT", "blocks", "paths_in", "resolved", "rows_under", "without_code"]

ROOT = Path(__file__).parents[2]

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").rglob("*.md"))
"""What users and contributors read."""

_PATH = re.compile(r"(?<![\w./-])((?:[\w.-]+/)*[\w.-]+\.(?:py|c|md|toml|yml|yaml|txt)|(?:[\w.-]+/)+)(?![\w/.])")
"""A file by its ending, or a directory by its last slash."""


def rows_under(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table under a `## ` heading, without its head."""
    text = page.read_text(encoding="utf-8")
    section = re.split(rf"^## {re.escape(heading)}\n", text, flags=re.MULTILINE)[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def without_code(text: str) -> str:
    """A page without its fenced and indented blocks and its code spans."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE))


def paths_in(text: str) -> set[str]:
    """Files and directories that a page names in code spans, and in diagrams."""
    diagrams = re.findall(r"^```mermaid\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    named = [span for span in spans if _PATH.fullmatch(span)]
    return {*named, *(path for diagram in diagrams for path in _PATH.findall(re.sub(r"<[^>]*>", " ", diagram)))}


def resolved(path: str) -> Path | None:
    """The file or directory of this repository that a page names, from its root or from src/dkv; None where there is
    none."""
    for root in (ROOT, ROOT / "src" / "dkv"):
        if (root / path).exists():
            return root / path
    return None


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language in a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
