"""A directory that appears whole or not at all."""

from __future__ import annotations

import errno
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dkv.errors import CheckpointError, SettingError

__all__ = ["new_directory"]


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
    part = parent / f".{destination.name}.{secrets.token_hex(4)}.part"
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
