"""What tells one checkpoint from another without reading all of it, so that results of two are never mixed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from dkv.checkpoints.weight_files import find_files
from dkv.storage.regular_file import open_file

__all__ = ["fingerprint"]

_PARTS = 64
_PART = 4096  # bytes: training changes every weight, so a few pages of each file show it


def fingerprint(directory: Path) -> str:
    """A digest of the names, the sizes and some bytes of a checkpoint's files, those of the weights that are the model
    and no others; small files are read whole.

    Raises CheckpointError.
    """
    found = hashlib.blake2b(digest_size=12)
    files = find_files(directory)
    small = {path.name for path in directory.glob("*.json") if path.is_file()} - set(files.ignored)
    for name in sorted(small | set(files.files)):
        with open_file(directory / name) as file:
            size = os.fstat(file.fileno()).st_size
            found.update(f"{name} {size}\n".encode())
            for offset in range(0, size, max(_PART, size // _PARTS)):
                file.seek(offset)
                found.update(file.read(_PART))
    return found.hexdigest()
