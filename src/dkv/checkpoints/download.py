"""What a repository on the hub holds, and fetching files of it into the hub's cache: resumed, verified, and only then
visible.

The hub's own client starts a file again in every process and trusts what arrives. So contents are fetched here, to the
place where the client keeps them, and appear there once their checksum was compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dkv.checkpoints.hub_cache import COMMIT, HubCache
from dkv.checkpoints.safetensors_header import PREFIX, Stored, header_end, parse_header
from dkv.checkpoints.transfer import StalledError, beginning, receive
from dkv.errors import HubError

__all__ = ["Listing", "Remote", "RemoteFile", "explain"]

_CHUNK = 1 << 22
_MOST_LISTED = 1 << 26  # bytes of the answer
_HEADER = 100_000  # bytes; almost every header is shorter
_NAME = re.compile(r"(?:[A-Za-z0-9]\w*/)?[^/\\\0]*[^/\\\0.][^/\\\0]*")
"""A file of the repository's top directory, or of a directory there with a plain name."""

_DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteFile:
    """digest: SHA-256 of the content, or git's SHA-1 of a small file, in hexadecimal; size in bytes."""

    name: str
    digest: str
    size: int

    def is_in(self, path: Path) -> bool:
        """Whether `path` holds exactly this file."""
        return path.stat().st_size == self.size and _digest(path, len(self.digest) == 64) == self.digest


@dataclass(frozen=True)
class Listing:
    """The files of a repository's top directory at a commit, and of the directories there, by name."""

    commit: str
    files: Mapping[str, RemoteFile]

    @property
    def top(self) -> list[str]:
        """Names of the files of the top directory, where the model is."""
        return [name for name in self.files if "/" not in name]


@dataclass(frozen=True)
class Remote:
    """A repository at a revision; endpoint and cache None = as huggingface_hub's environment variables say."""

    repo: str
    revision: str
    endpoint: str | None
    root: Path | None

    @cached_property
    def cache(self) -> HubCache:
        """Its place in the cache."""
        from huggingface_hub import constants

        return HubCache((self.root or Path(constants.HF_HUB_CACHE)) / f"models--{self.repo.replace('/', '--')}")

    def listing(self, revision: str) -> Listing:
        """What the hub says that there is. Raises HubError, StalledError and the client's own errors."""
        from huggingface_hub import constants
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

        validate_repo_id(self.repo)
        base = self.endpoint or constants.ENDPOINT
        url = f"{base}/api/models/{self.repo}/revision/{quote(revision, safe='')}?blobs=true"
        answer = beginning(url, _MOST_LISTED, constants.HF_HUB_ETAG_TIMEOUT)
        try:
            return _listed(json.loads(answer))
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            raise HubError(
                f"model={self.repo!r}: {base} does not answer as a hub does (a web page, perhaps); check HF_ENDPOINT"
            ) from None

    def header(self, listing: Listing, name: str) -> dict[str, Stored]:
        """The tensors of a safetensors file, of which the beginning is fetched. Raises as `listing`, `parse_header`."""
        from huggingface_hub import constants

        url, size = self._url(listing, name), listing.files[name].size

        def first(count: int) -> bytes:
            ask = {"Range": f"bytes=0-{count}"}
            return beginning(url, count, constants.HF_HUB_DOWNLOAD_TIMEOUT, ask)

        data = first(_HEADER)
        end = header_end(Path(name), data[:512] if len(data) >= PREFIX else data, size)
        return parse_header(Path(name), data if len(data) >= end else first(end), size)

    def fetch(self, listing: Listing, name: str) -> Path:
        """One file's content in the cache, fetched unless it is there. Raises HubError and the client's own errors."""
        from filelock import FileLock

        file = listing.files[name]
        blob = self.cache.blob(file.digest)
        lock = self.cache.folder.parent / ".locks" / self.cache.folder.name / f"{file.digest}.lock"
        if _is_whole(blob, file):
            return blob
        for directory in (blob.parent, lock.parent):
            directory.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if not _is_whole(blob, file):  # another process may have been faster
                part = blob.with_name(f"{file.digest}.dkv.incomplete")
                self._receive(listing, file, part)
                if not file.is_in(part):
                    part.unlink()
                    raise HubError(
                        f"model={self.repo!r}: {file.name} arrived damaged (wrong checksum) and was removed; "
                        "load it again"
                    )
                part.replace(blob)
        return blob

    def _url(self, listing: Listing, name: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo, name, revision=listing.commit, endpoint=self.endpoint)

    def _receive(self, listing: Listing, file: RemoteFile, part: Path) -> None:
        """Append to `part` what it lacks, with a progress bar on a terminal."""
        from huggingface_hub import constants
        from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

        if part.exists() and part.stat().st_size > file.size:
            part.unlink()
        with part.open("ab") as out:
            needed, free = file.size - out.tell(), shutil.disk_usage(part.parent).free
            if free < needed:
                raise HubError(
                    f"model={self.repo!r}: {file.name} needs {needed} bytes, {part.parent} has {free}; "
                    "free some, or set HF_HOME to another disk"
                )
            shown = {"total": file.size, "initial": out.tell(), "desc": file.name, "unit": "B", "unit_scale": True}
            url, timeout = self._url(listing, file.name), constants.HF_HUB_DOWNLOAD_TIMEOUT
            with tqdm(**shown, disable=None) as bar, suppress(EOFError):  # type: ignore[no-untyped-call]
                receive(url, out, file.size, timeout, bar.update)  # (what is too long has another checksum)


def _listed(answer: Any) -> Listing:
    """The hub's answer. Raises KeyError, TypeError and ValueError for what is none."""
    commit, files = answer["sha"], {}
    for entry in answer["siblings"]:
        name, lfs = entry["rfilename"], entry.get("lfs") or {}
        digest, size = lfs.get("sha256") or entry.get("blobId"), lfs.get("size", entry.get("size"))
        if not _NAME.fullmatch(name):
            continue
        if not _DIGEST.fullmatch(digest) or type(size) is not int or size < 0:
            raise ValueError(name)
        files[name] = RemoteFile(name, digest, size)
    if not COMMIT.fullmatch(commit):
        raise ValueError(commit)
    return Listing(commit, files)


def _is_whole(blob: Path, file: RemoteFile) -> bool:
    return blob.is_file() and blob.stat().st_size == file.size


def _digest(path: Path, sha256: bool) -> str:
    # Git's SHA-1 is of a header and the content; it guards against damage here, not against an attacker.
    found = hashlib.sha256() if sha256 else hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def explain(model: str, error: Exception) -> HubError:
    """One line for an error of the hub's client: what happened, and what to do."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    log_in = "log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        return HubError(f"model={model!r}: is gated on the hub ({status}); accept its terms on its page and {log_in}")
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"model={model!r}: the hub has no such revision ({status}); give owner/name@branch or a commit")
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubError(
            f"model={model!r}: neither a directory nor a repository on the hub ({status}); if it is private, {log_in}"
        )
    if status in (401, 403):
        return HubError(f"model={model!r}: the hub refuses access ({status}); {log_in}")
    if status is not None:
        return HubError(f"model={model!r}: the hub answered with status {status}; try again later{_elsewhere()}")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubError(f"model={model!r}: is not in the cache, and HF_HUB_OFFLINE is set; unset it to fetch the model")
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, (StalledError, TimeoutError)) or "Timeout" in type(error).__name__:  # of either HTTP library
        return HubError(
            f"model={model!r}: the hub does not answer in time ({reason}; HF_HUB_ETAG_TIMEOUT and "
            "HF_HUB_DOWNLOAD_TIMEOUT change that); try again, check HF_ENDPOINT, or give a directory"
        )
    if isinstance(error, (AttributeError, LookupError, TypeError)):  # the client stumbles over an answer of its own
        reason = f"it does not answer as a hub does: {reason}"
    return HubError(
        f"model={model!r}: cannot be fetched from the hub ({reason}); try again{_elsewhere()}, or give a directory"
    )


def _elsewhere() -> str:
    """What to do beside, where the hub is another than the client's own."""
    return ", check HF_ENDPOINT" if os.environ.get("HF_ENDPOINT") else ""
