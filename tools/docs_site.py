"""A hook of mkdocs: pages that lie outside docs/ become part of the site, and links to them lead to their copies.

Links from page to page are checked by mkdocs; so those to the pages named here are as well, which on GitHub lead to the
files themselves.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File  # type: ignore[import-not-found]  # in .venv-docs only

ROOT = Path(__file__).parents[1]

OUTSIDE: Mapping[str, str] = {
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "README.md": "start.md",
    "src/dkv/tiny/model/README.md": "tiny.md",
}
"""A page of the repository -> its place in the site."""

_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages outside docs/."""
    for source, place in OUTSIDE.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn a page's links to files of the repository into links within the site."""
    place = page.file.src_uri
    source = next((path for path, other in OUTSIDE.items() if other == place), f"docs/{place}")
    return _LINK.sub(lambda link: _within_site(link[1], source, place), markdown)


def _within_site(link: str, source: str, place: str) -> str:
    """A link as it must stand on the page `place` of the site, whose text is the file `source` of the repository."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    inside = OUTSIDE.get(target, target.removeprefix("docs/"))
    return posixpath.relpath(inside, posixpath.dirname(place) or ".")
