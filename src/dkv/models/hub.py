"""Where a model's files are: a directory, or `owner/name` on the hub, fetched once into the hub's own cache.

Only data is fetched: safetensors, JSON, tokenizer and chat template; never pickled weights and never code. A file goes
into the cache only after its checksum was verified; a download that was cut goes on where it stopped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dkv.errors import CheckpointError
from dkv.models.download import Remote, explain, fetch
from dkv.models.headers import Stored, indexed_files, read_headers

__all__ = ["Hub", "find_directory", "is_hub_id"]

_SMALL = ("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt",
          "added_tokens.json", "chat_template.jinja", "*.safetensors.index.json", "LICENSE*")  # fmt: skip
_ALL = (*_SMALL, "*.safetensors")
_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}[\w])?"
_ID = re.compile(rf"({_PART}/{_PART})(?:@([\w.][\w./-]*))?")


def find_directory(model: str | Path) -> Path:
    """The directory that holds a model's files; a hub id is fetched if it is not in the cache.

    Raises CheckpointError for what is neither a directory nor looks like a hub id, and HubError.
    """
    text = str(model)
    if _is_directory(text):
        return Path(model)
    if isinstance(model, str) and is_hub_id(model):
        return Hub().directory(model)
    raise CheckpointError(
        f"model={text!r}: no such directory; give 'tiny', a checkpoint directory or a hub id like 'owner/name'"
    )


def is_hub_id(model: str) -> bool:
    """Whether a text means a model on the hub: it looks like an id, and nothing here has that path."""
    return _ID.fullmatch(model) is not None and not Path(model).exists()


def _is_directory(text: str) -> bool:
    return text != "" and "\0" not in text and Path(text).is_dir()


@dataclass(frozen=True)
class Hub:
    """The hub at `endpoint`, with its cache; None = as huggingface_hub's environment variables say."""

    endpoint: str | None = None
    cache: Path | None = None

    def directory(self, model: str) -> Path:
        """All that loading needs of `owner/name[@revision]`. A complete snapshot in the cache is used without a
        request, also where its branch has moved on. Raises HubError."""
        with _explained(model):
            return self._snapshot(model, _ALL)

    def peek(self, model: str) -> tuple[Path, dict[str, Stored]]:
        """A directory with everything but perhaps the weights, and what the weights' headers say; no headers where
        there are no safetensors. Raises HubError, and CheckpointError for what is damaged."""
        with _explained(model):
            cached = self._cached(self._remote(model, _ALL))
            if cached is not None:
                return cached, read_headers(cached)
            directory = self._snapshot(model, _SMALL)
            return directory, self._headers(model, directory)

    def _remote(self, model: str, patterns: tuple[str, ...]) -> Remote:
        return Remote(*_parsed(model), patterns, self.endpoint, self.cache)

    def _cached(self, remote: Remote) -> Path | None:
        """A snapshot in the cache, perhaps another program's, if it has what loading needs."""
        cached = remote.cached()
        return cached if cached is not None and _whole(cached, weights=remote.patterns == _ALL) else None

    def _snapshot(self, model: str, patterns: tuple[str, ...]) -> Path:
        remote = self._remote(model, patterns)
        return self._cached(remote) or fetch(remote)

    def _headers(self, model: str, directory: Path) -> dict[str, Stored]:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import EntryNotFoundError

        api, (repo, revision) = HfApi(endpoint=self.endpoint), _parsed(model)
        index = directory / "model.safetensors.index.json"
        found: dict[str, Stored] = {}
        for file in indexed_files(index) if index.is_file() else ["model.safetensors"]:
            try:
                header = api.parse_safetensors_file_metadata(repo, file, revision=revision)
            except EntryNotFoundError:  # pickled weights only, perhaps: a fact, and no damage
                return {}
            found |= {n: Stored(Path(file), t.dtype, tuple(t.shape)) for n, t in header.tensors.items()}
        return found


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
    if match is None:
        raise CheckpointError(f"model={model!r}: is no hub id like 'owner/name' or 'owner/name@revision'")
    return match[1], match[2] or "main"


def _whole(directory: Path, weights: bool) -> bool:
    """Whether a directory has a config, and all the weights if those are asked for."""
    if not (directory / "config.json").is_file():
        return False
    index = directory / "model.safetensors.index.json"
    if not weights or not index.is_file():
        return not weights or any(directory.glob("*.safetensors"))
    return all((directory / file).is_file() for file in indexed_files(index))
