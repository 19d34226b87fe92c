"""Fetching a repository's files into the hub's cache: resumed, verified, and only then visible.

The hub's own client starts a file again in every process and trusts what arrives. So the contents are fetched here, to
the place where the client keeps them, and the client then only links them into a snapshot.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dkv.errors import HubError

__all__ = ["Remote", "explain", "fetch"]

_CHUNK = 1 << 22


@dataclass(frozen=True)
class Remote:
    """The files of a repository at a revision that match `patterns`."""

    repo: str
    revision: str
    patterns: tuple[str, ...]
    endpoint: str | None
    cache: Path | None

    @property
    def root(self) -> Path:
        """The cache."""
        from huggingface_hub import constants

        return self.cache or Path(constants.HF_HUB_CACHE)

    @property
    def folder(self) -> str:
        """What the client calls this repository's folder in it."""
        return f"models--{self.repo.replace('/', '--')}"

    def cached(self) -> Path | None:
        """The snapshot in the cache, None if there is none or one that is known to be incomplete. No request."""
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return Path(self._snapshot(local=True))
        except LocalEntryNotFoundError:
            return None

    def link(self) -> Path:
        """Let the client link the contents in its cache into a snapshot."""
        return Path(self._snapshot(local=False))

    def _snapshot(self, local: bool) -> str:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

        class Silent(tqdm):
            """Its bar shows also where there is no terminal. (A class, whose methods older clients call.)"""

            def __init__(self, *given: Any, **named: Any) -> None:
                super().__init__(*given, **{**named, "disable": True})  # type: ignore[no-untyped-call]

        place: str = snapshot_download(
            self.repo, revision=self.revision, cache_dir=self.cache, endpoint=self.endpoint, local_files_only=local,
            allow_patterns=list(self.patterns), tqdm_class=Silent,
        )  # fmt: skip
        return place


@dataclass(frozen=True)
class _File:
    """digest: SHA-256 of the content, or git's SHA-1 of a small file, in hexadecimal; size in bytes."""

    name: str
    digest: str
    size: int

    def is_in(self, path: Path) -> bool:
        """Whether `path` holds exactly this file."""
        return path.stat().st_size == self.size and _digest(path, len(self.digest) == 64) == self.digest


def fetch(remote: Remote) -> Path:
    """Fetch what is not in the cache; the snapshot's directory. Raises HubError and the client's own errors."""
    from huggingface_hub import HfApi

    info = HfApi(endpoint=remote.endpoint).model_info(remote.repo, revision=remote.revision, files_metadata=True)
    files = [f for f in info.siblings or () if any(fnmatchcase(f.rfilename, pattern) for pattern in remote.patterns)]
    if not any(f.rfilename == "config.json" for f in files):
        raise HubError(f"model={remote.repo!r}: holds no config.json on the hub; give a model's repository")
    for file in files:
        digest = file.lfs.sha256 if file.lfs is not None else file.blob_id
        if digest is not None and file.size is not None:
            _fetch_file(remote, _File(file.rfilename, digest, file.size), info.sha or remote.revision)
    directory = remote.link()
    if info.sha not in (None, directory.name):
        raise HubError(f"model={remote.repo!r}: changed on the hub while it was fetched; load it again")
    return directory


def _fetch_file(remote: Remote, file: _File, commit: str) -> None:
    """Put one file's content into the cache, unless it is there. Raises HubError and the client's own errors."""
    from filelock import FileLock

    blob = remote.root / remote.folder / "blobs" / file.digest
    lock = remote.root / ".locks" / remote.folder / f"{file.digest}.lock"
    if blob.exists():
        return
    for directory in (blob.parent, lock.parent):
        directory.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if blob.exists():  # another process was faster
            return
        part = blob.with_name(f"{file.digest}.dkv.incomplete")
        _receive(remote, file, commit, part)
        if not file.is_in(part):
            part.unlink()
            raise HubError(
                f"model={remote.repo!r}: {file.name} arrived damaged (wrong checksum) and was removed; load it again"
            )
        part.replace(blob)


def _receive(remote: Remote, file: _File, commit: str, part: Path) -> None:
    """Append to `part` what it lacks, with a progress bar on a terminal. The client goes on after a cut connection."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    if part.exists() and part.stat().st_size > file.size:
        part.unlink()
    with part.open("ab") as out:
        needed, free = file.size - out.tell(), shutil.disk_usage(part.parent).free
        if free < needed:
            raise HubError(
                f"model={remote.repo!r}: {file.name} needs {needed} bytes, {part.parent} has {free}; "
                "free some, or set HF_HOME to another disk"
            )
        url = hf_hub_url(remote.repo, file.name, revision=commit, endpoint=remote.endpoint)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        while True:
            begin = out.tell()
            try:
                http_get(url, out, resume_size=begin, headers=headers, expected_size=file.size,
                         displayed_filename=file.name)  # fmt: skip
                return
            except Exception:  # of whichever HTTP library the client's release uses
                if out.tell() <= begin:  # older releases give up on a cut connection: go on while there is progress
                    raise


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
        return HubError(f"model={model!r}: the hub answered with status {status}; try again later")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubError(f"model={model!r}: is not in the cache, and HF_HUB_OFFLINE is set; unset it to fetch the model")
    reason = " ".join(str(error).split()) or type(error).__name__
    return HubError(f"model={model!r}: cannot be fetched from the hub ({reason}); try again, or give a directory")
