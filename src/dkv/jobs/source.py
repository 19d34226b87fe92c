"""What a batch job is asked: its options, and its input of JSON lines, read again and again but never held."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dkv.errors import SettingError
from dkv.layers.quantized import check_kind
from dkv.lm import DiffusionLM
from dkv.loading import load
from dkv.storage.jsonl import raw_lines

__all__ = ["JobOptions", "Source", "SourceLine"]


@dataclass(frozen=True)
class JobOptions:
    """A batch job as it was asked for. Raises SettingError."""

    input: Path
    output: Path
    arguments: Mapping[str, Any]  # of `lm.request`, without a seed
    model: str = "tiny"
    device: str = "auto"
    dtype: str = "auto"
    seed: int | None = None  # None = that of the run that is gone on with, else drawn
    batch_size: int = 32  # prompts in the engine's forwards at once
    skip_bad: bool = False  # a bad line becomes an error record; else it stops the job before anything is run
    ray: bool = False
    workers: int | None = None  # of Ray; None = one for each GPU, without any two
    quantize: str | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        for name, value in (("batch_size", self.batch_size), ("workers", self.workers)):
            if value is not None and (type(value) is not int or value < 1):
                raise SettingError(f"{name}={value!r} must be a whole number of at least 1")
        check_kind(self.quantize)
        if self.workers is not None and not self.ray:
            raise SettingError(f"workers={self.workers} needs ray; give --ray, or leave workers out")

    def load(self) -> DiffusionLM:
        """The model. Raises what `dkv.load` raises."""
        return load(self.model, device=self.device, dtype=self.dtype, quantize=self.quantize, compile=self.compile)


@dataclass(frozen=True)
class SourceLine:
    """One line as it stands in the file; number counts from 1, blank lines included."""

    number: int
    text: bytes


class Source:
    """A file of lines, gzipped or not. count: lines that are not blank; last: the number of the last of them; digest:
    of all lines. Raises SettingError where the file cannot be read, or holds nothing."""

    def __init__(self, path: Path, inspect: Callable[[SourceLine], object]) -> None:
        """inspect: called with each line, on the one pass that this takes."""
        if not path.is_file():
            reason = "is no file that can be read twice" if path.exists() or str(path) == "-" else "does not exist"
            raise SettingError(f"input={str(path)!r} {reason}; give a file of JSON lines")
        self.path, self.count, self.last = path, 0, 0
        found = hashlib.blake2b(digest_size=12)
        for line in self.lines():
            found.update(b"%d " % line.number + line.text.strip() + b"\n")
            self.count, self.last = self.count + 1, line.number
            inspect(line)
        if not self.count:
            raise SettingError(f"input={str(path)!r} holds no prompts; give a file of JSON lines")
        self.digest = found.hexdigest()

    def lines(self) -> Iterator[SourceLine]:
        """The lines that are not blank, in order. Raises SettingError."""
        for number, text in enumerate(raw_lines("input", self.path), 1):
            if text.strip():
                yield SourceLine(number, text)
