"""Where a model's files are: a directory, or `owner/name` on the hub, fetched once into the hub's own cache.

Only data is fetched: safetensors, JSON, tokenizer and chat template; never pickled weights and never code. A file goes
into the cache only after its checksum was verified; a download that was cut goes on where it stopped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dkv.checkpoints.config_fields import read_json
from dkv.checkpoints.download import Listing, Remote, explain
from dkv.checkpoints.other_formats import missing_config
from dkv.checkpoints.safetensors_header import Stored, merge, read_headers
from dkv.checkpoints.weight_files import INDEX, WeightFiles, choose_files, find_files
from dkv.errors import CheckpointError, HubError, UnsupportedModelError
from dkv.storage.regular_file import exists, expanded
from dkv.tokenizer import TOKENIZER_FILES

__all__ = ["Hub", "Peeked", "find_directory", "is_hub_id"]

_SMALL = ("config.json", "generation_config.json", *TOKENIZER_FILES, "LICENSE*")
_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}[\w])?"
_ID = re.compile(rf"({_PART}/{_PART})(?:@([\w.][\w./-]*))?")


def find_directory(model: str | Path) -> Path:
    """The directory that holds a model's files, ~ being one's home; a hub id is fetched if it is not in the cache.

    Raises CheckpointError for what is neither a directory nor looks like a hub id, and HubError.
    """
    text = str(model)
    path = expanded(model)
    if path is not None and path.is_dir():
        return path
    if isinstance(model, str) and is_hub_id(model):
        return Hub().directory(model)
    if path is not None and exists(path):
        raise CheckpointError(f"model={text!r}: no such directory, but {_what(path)}")
    raise CheckpointError(
        f"model={text!r}: no such directory; give 'tiny', a checkpoint directory or a hub id like 'owner/name'"
    )


def _what(path: Path) -> str:
    """What stands at a path that is no directory, and what to give instead."""
    if path.suffix == ".gguf":
        return "a GGUF file, which dkv does not read yet; give a directory with the safetensors checkpoint"
    if path.is_symlink() and not path.exists():
        return f"a link to {os.readlink(path)}, which does not exist; give a checkpoint directory"
    return f"a file; give the directory that holds it, {str(path.parent)!r}"


def is_hub_id(model: str) -> bool:
    """Whether a text means a model on the hub: it looks like an id, and nothing here has that path."""
    return _ID.fullmatch(model) is not None and not exists(Path(model))


@dataclass(frozen=True)
class Peeked:
    """What loading a model would take."""

    directory: Path  # everything but perhaps the weights
    stored: Mapping[str, Stored]  # what the weights' headers say; empty where there are none to load
    files: WeightFiles | None
    problem: str | None  # why there are none to load


@dataclass(frozen=True)
class Hub:
    """The hub at `endpoint`, with its cache; None = as huggingface_hub's environment variables say."""

    endpoint: str | None = None
    cache: Path | None = None

    def directory(self, model: str) -> Path:
        """All that loading needs of `owner/name[@revision]`. A snapshot in the cache that is known to be complete is
        used without a request, also where its branch has moved on. Raises HubError, and CheckpointError for a
        repository whose weights cannot be used."""
        with _explained(model):
            remote = Remote(*_parsed(model), self.endpoint, self.cache)
            cached, listing = self._found(remote, model)
            if listing is None:
                return cached
            _check_config(remote, listing)
            files = self._choose(remote, listing)
            index = [INDEX] if files.weight_map is not None else []
            return self._complete(remote, listing, [*_small(listing), *files.files, *index])

    def peek(self, model: str) -> Peeked:
        """What `directory` would load, without fetching weights. Raises as `directory` does."""
        with _explained(model):
            remote = Remote(*_parsed(model), self.endpoint, self.cache)
            cached, listing = self._found(remote, model)
            if listing is None:
                return Peeked(cached, read_headers(cached), find_files(cached), None)
            _check_config(remote, listing)
            directory = self._complete(remote, listing, _small(listing))
            try:
                files = self._choose(remote, listing)
            except CheckpointError as error:
                if any(name.endswith(".safetensors") for name in listing.top):
                    raise
                return Peeked(directory, {}, None, str(error))
            headers = (remote.header(listing, name) for name in files.files)
            return Peeked(directory, merge(Path(model), files, headers), files, None)

    def _found(self, remote: Remote, model: str) -> tuple[Path, Listing | None]:
        """A snapshot that is all there is, with None; else where one would be, and what the hub says that there is."""
        cached = remote.cache.snapshot(remote.revision)
        declared = None if cached is None else remote.cache.declared(cached.name)
        if cached is not None and declared is not None and not _absent(cached, declared):
            return cached, None
        try:
            return cached or Path(), self._listing(remote, cached)
        except Exception as error:
            if cached is None:
                raise
            lacking = _absent(cached, declared) if declared is not None else _needed(cached)
            if not lacking:  # as complete as can be seen without the hub
                return cached, None
            raise HubError(
                f"model={model!r}: its snapshot in the cache lacks {', '.join(lacking)}, and the hub cannot be asked "
                f"({_reason(model, error)}); fetch it by `hf download {remote.repo}`, or give {str(cached)!r} to load "
                "it as it is"
            ) from None

    def _listing(self, remote: Remote, cached: Path | None) -> Listing:
        """Of the commit that is in the cache, if it is still there: what is new on the branch is not asked for."""
        from huggingface_hub.errors import RevisionNotFoundError

        if cached is not None:
            with suppress(RevisionNotFoundError):
                return remote.listing(cached.name)
        return remote.listing(remote.revision)

    def _choose(self, remote: Remote, listing: Listing) -> WeightFiles:
        def read_index() -> Mapping[str, Any]:
            return read_json(remote.fetch(listing, INDEX))

        return choose_files(f"model={remote.repo!r}", listing.top, read_index)

    def _complete(self, remote: Remote, listing: Listing, names: list[str]) -> Path:
        """The snapshot with `names`, fetched where they are missing."""
        for name in names:
            remote.fetch(listing, name)
        digests = {name: listing.files[name].digest for name in names}
        place = remote.cache.link(remote.revision, listing.commit, digests)
        if any(name.endswith(".safetensors") for name in names):
            remote.cache.declare(listing.commit, names)
        return place


def _check_config(remote: Remote, listing: Listing) -> None:
    """The repository has a config.json. Raises CheckpointError, naming what it is instead where that can be seen."""
    if "config.json" not in listing.files:
        found = missing_config("config.json", f"model={remote.repo!r}", listing.top)
        if isinstance(found, UnsupportedModelError):
            raise found
        raise HubError(f"model={remote.repo!r}: holds no config.json on the hub; give a model's repository")


def _small(listing: Listing) -> list[str]:
    return [n for n in listing.files if any(n.count("/") == p.count("/") and fnmatchcase(n, p) for p in _SMALL)]


def _absent(directory: Path, names: Iterable[str]) -> list[str]:
    """Which of the names are not there, or links to nothing."""
    return [name for name in names if not (directory / name).is_file()]


def _reason(model: str, error: Exception) -> str:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    line = error if isinstance(error, HubError) else explain(model, error)
    return str(line).removeprefix(f"model={model!r}: ").partition(";")[0]


def _needed(directory: Path) -> list[str]:
    """What a snapshot surely lacks, as far as can be seen without knowing what the repository has."""
    lacking = _absent(directory, ["config.json", "tokenizer_config.json"])
    if len(_absent(directory, ["tokenizer.json", "vocab.json"])) == 2:
        lacking.append("tokenizer.json")
    present = [entry.name for entry in directory.iterdir() if entry.is_file()]
    try:
        choose_files(str(directory), present, lambda: read_json(directory / INDEX))
    except CheckpointError:
        lacking.append("weights")
    return lacking


@contextmanager
def _explained(model: str) -> Iterator[None]:
    """The client's errors as a HubError; it raises its HTTP library's too, which change with its version."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise explain(model, error) from None


def _parsed(model: str) -> tuple[str, str]:
    """Repository and revision. Raises CheckpointError."""
    match = _ID.fullmatch(model)
    if match is None or ".." in (match[2] or "").split("/"):
        raise CheckpointError(f"model={model!r}: is no hub id like 'owner/name' or 'owner/name@revision'")
    return match[1], match[2] or "main"
