"""What an engine asks of a loaded model."""

from __future__ import annotations

from typing import Protocol

from dkv.core.model import Model
from dkv.core.packing import Bucket
from dkv.tokenizer import Tokenizer

__all__ = ["ServedModel"]


class ServedModel(Protocol):
    """`DiffusionLM`, or anything with these attributes."""

    audit: bool
    """Check every read of the cache and every commit."""

    @property
    def model(self) -> Model:
        """The network, with what records its forwards."""
        ...

    @property
    def network(self) -> Model:
        """The network itself."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Text to ids and back; None for token ids only."""
        ...

    @property
    def bucket(self) -> Bucket:
        """How row counts are rounded up."""
        ...

    def release_memory(self) -> None:
        """Give free memory of this process back to the system."""
        ...
