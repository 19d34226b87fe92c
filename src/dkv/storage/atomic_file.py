"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from dkv.errors import SettingError

__all__ = ["write_whole"]


def write_whole(path: Path, data: bytes) -> None:
    """Put a file in its place once it is whole. Raises SettingError."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        raise SettingError(f"out={str(path)!r} cannot be written ({error.strerror or error}); give another") from None
    finally:
        part.unlink(missing_ok=True)
