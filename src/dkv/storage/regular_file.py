"""Reading files of unknown origin: plain files only, without ever waiting for a writer, with a bound on their size.

What is recognisably another thing than it should be (a link to nothing, a Git LFS pointer, a web page, an archive) is
named in the error, since "not valid JSON" does not help whoever has it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from dkv.errors import CheckpointError

__all__ = ["exists", "expanded", "foreign_format", "open_file", "read_bytes", "read_known", "read_text"]

_MOST = 1 << 28  # bytes; a large tokenizer.json has 40 MB
_HEAD = 512

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_PICKLED = "dkv never unpickles; convert it to safetensors"
_AGAIN = "fetch the file again"
_FORMATS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs.github.com/", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    (b"\x1f\x8b", "compressed (gzip)", "decompress it"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)", "decompress it"),
    (b"\xfd7zXZ\0", "compressed (xz)", "decompress it"),
    (b"BZh", "compressed (bzip2)", "decompress it"),
    (b"PK\x03\x04", "a zip archive, as torch.save writes", _PICKLED),
    (b"\x80\x02", "pickled", _PICKLED),
    (b"\x80\x03", "pickled", _PICKLED),
    (b"\x80\x04", "pickled", _PICKLED),
    (b"\x80\x05", "pickled", _PICKLED),
    (b"GGUF", "a GGUF file, which dkv does not read yet", "give the safetensors checkpoint"),
    (b"\x89HDF\r\n", "an HDF5 file", "give the safetensors checkpoint"),
)
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")


def exists(path: Path) -> bool:
    """Whether something has this name, be it a link to nothing, which is damage rather than absence."""
    return os.path.lexists(path)


def expanded(path: str | Path) -> Path | None:
    """The path with ~ as one's home; None for what cannot be a path."""
    text = str(path)
    if not text or "\0" in text:
        return None
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no such user
        return Path(text)


def open_file(path: Path) -> BinaryIO:
    """Open a plain file for reading; nothing else is waited for. Raises CheckpointError."""
    try:
        _check(path, os.stat(path))
        # Not blocking, since the file may have become a FIFO since.
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        file = os.fdopen(number, "rb")
        try:
            _check(path, os.fstat(number))
        except BaseException:
            file.close()
            raise
    except (OSError, ValueError) as error:
        raise CheckpointError(_unreadable(path, error)) from None
    return file


def read_bytes(path: Path, most: int = _MOST) -> bytes:
    """The content of a plain file of at most `most` bytes. Raises CheckpointError."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            content = file.read(size) if size <= most else b""
        except OSError as error:
            raise CheckpointError(_unreadable(path, error)) from None
    if size > most:
        raise CheckpointError(f"{path}: has {size} bytes, more than the {most} that such a file may have; {_AGAIN}")
    return content


def read_known(path: Path) -> bytes:
    """The content of a plain file that is not recognisably something else. Raises CheckpointError."""
    content = read_bytes(path)
    found = foreign_format(content[:_HEAD])
    if found is not None:
        raise CheckpointError(f"{path}: {found}")
    return content


def read_text(path: Path) -> str:
    """The text of such a file, UTF-8. Raises CheckpointError."""
    try:
        return read_known(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: cannot be read ({' '.join(str(error).split())}); {_AGAIN}") from None


def foreign_format(head: bytes) -> str | None:
    """What a file that begins with `head` is instead of a checkpoint's file, and what to do; None if that is unknown.

    The words follow the file's name in an error.
    """
    if not head:
        return f"is empty; {_AGAIN}"
    for magic, name, fix in _FORMATS:
        if head.startswith(magic):
            return f"is {name}; {fix}"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return f"is a web page, perhaps an error page saved in place of the file; {_AGAIN}"
    return None


def _check(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no file")
        raise CheckpointError(f"{path}: cannot be read: it is {kind}, not a plain file; {_AGAIN}")


def _unreadable(path: Path, error: OSError | ValueError) -> str:
    try:
        target = os.readlink(path)
    except (OSError, ValueError):
        target = None
    if target is not None and not os.path.exists(path):
        return (
            f"{path}: is a link to {target}, which does not exist; "
            "copy a snapshot with the files that it links to (cp -rL), or fetch the file again"
        )
    return f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); {_AGAIN}"
