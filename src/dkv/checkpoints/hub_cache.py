"""The place of a repository in the hub's own cache, which other programs share: blobs, snapshots, refs.

Contents lie in `blobs` under their digest; a snapshot is a directory of links to them, a ref the commit of a branch.
Beside them, in `dkv`, is kept which files the repository declares for each commit, so that a snapshot that another
program fetched in part is not taken for all there is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from dkv.checkpoints.config_fields import read_json
from dkv.errors import CheckpointError
from dkv.storage.atomic import placed
from dkv.storage.regular_file import read_text

__all__ = ["COMMIT", "HubCache"]

COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class HubCache:
    """The folder of one repository."""

    folder: Path

    def blob(self, digest: str) -> Path:
        """Where the content with a digest lies."""
        return self.folder / "blobs" / digest

    def snapshot(self, revision: str) -> Path | None:
        """The snapshot of a branch or commit, perhaps in part; None where there is none."""
        commit = revision
        if not COMMIT.fullmatch(revision):
            try:
                commit = read_text(self.folder / "refs" / revision).strip()
            except CheckpointError:
                return None
        place = self.folder / "snapshots" / commit
        return place if COMMIT.fullmatch(commit) and place.is_dir() else None

    def declared(self, commit: str) -> list[str] | None:
        """The files that the repository declares at a commit, of those that dkv fetches; None if not asked."""
        try:
            files = read_json(self._declared(commit)).get("files")
        except CheckpointError:
            return None
        return files if isinstance(files, list) and all(isinstance(name, str) for name in files) else None

    def declare(self, commit: str, files: Collection[str]) -> None:
        """Keep that list."""
        _write(self._declared(commit), json.dumps({"files": sorted(files)}))

    def link(self, revision: str, commit: str, digests: Mapping[str, str]) -> Path:
        """Link contents, file -> digest, into the snapshot of a commit, and let `revision` mean it. Raises OSError."""
        place = self.folder / "snapshots" / commit
        place.mkdir(parents=True, exist_ok=True)
        for name, digest in digests.items():
            _link(self.blob(digest), place, name)
        if revision != commit:
            _write(self.folder / "refs" / revision, commit)
        return place

    def _declared(self, commit: str) -> Path:
        return self.folder / "dkv" / f"{commit}.json"


def _link(blob: Path, snapshot: Path, name: str) -> None:
    place = snapshot / name
    if place.exists() and place.samefile(blob):
        return
    place.parent.mkdir(exist_ok=True)
    with placed(place) as part:
        try:
            part.symlink_to(os.path.relpath(blob, place.parent))
        except OSError:  # a system or a disk without links
            shutil.copyfile(blob, part)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with placed(path) as part:
        part.write_text(text, encoding="utf-8")
