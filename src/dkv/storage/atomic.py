"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dkv.errors import CheckpointError, SettingError

__all__ = ["new_directory", "placed", "write_whole"]


@contextmanager
def placed(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to: what is there in the end takes the place, in one step. Raises OSError."""
    part = _beside(path)
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Put a file in its place once it is whole. Raises SettingError."""
    try:
        with placed(path) as part:
            part.write_bytes(data)
    except OSError as error:
        raise SettingError(f"out={str(path)!r} cannot be written ({error.strerror or error}); give another") from None


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


@contextmanager
def new_directory(destination: Path, needed: int) -> Iterator[Path]:
    """A directory beside `destination` to fill with `needed` bytes: it takes the place in the end, or is removed.

    Raises SettingError for a destination that is in use, CheckpointError for what cannot be written.
    """
    parent = destination.absolute().parent
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise SettingError(f"directory={str(destination)!r} is in use; give one that does not exist or is empty")
    if not parent.is_dir():
        raise SettingError(f"directory={str(destination)!r}: {parent} does not exist; make it first")
    if (free := shutil.disk_usage(parent).free) < needed:
        raise CheckpointError(f"{destination}: needs {needed} bytes and the disk has {free}; free some")
    part = _beside(destination.absolute())
    try:
        part.mkdir()
        yield part
        if destination.is_dir():
            destination.rmdir()
        part.rename(destination)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "free some space" if full else "choose another place"
        raise CheckpointError(f"{destination}: cannot be written ({error.strerror or error}); {fix}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
