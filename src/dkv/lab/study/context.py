"""What studies measure with: models, each loaded once, the answers that studies share, and a line of progress."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dkv.checkpoints.fingerprint import fingerprint
from dkv.lab.eval.answers import Asker
from dkv.lm import DiffusionLM
from dkv.loading import compiled_as, find_device, find_dtype, find_model, load
from dkv.storage.jsonl import Store, StoreFormat
from dkv.version import installed_version

__all__ = ["BATCH", "Kit"]

BATCH = 20
"""Prompts that share a batch: what an interruption can lose of one setting."""

_ANSWERS = StoreFormat("dkv-study-answers 1", "dkv study", "give another directory")


@dataclass
class Kit:
    """model, device, dtype, compile: as `load` takes them; the model is studied unless a cell names another. tell:
    takes a line of progress; seed: of all answers; out: the directory of the answers' files, None = none are kept. A
    context manager that closes them."""

    model: str = "tiny"
    device: str = "auto"
    dtype: str = "auto"
    compile: bool = False
    tell: Callable[[str], None] = lambda note: None
    seed: int = 0
    out: Path | None = None
    _loaded: dict[str, DiffusionLM] = field(default_factory=dict)
    _askers: dict[str, Asker] = field(default_factory=dict)

    def lm(self, name: str | None = None) -> DiffusionLM:
        """A model by name, the studied one by default. Raises what `load` raises."""
        name = name or self.model
        if name not in self._loaded:
            self._loaded[name] = load(name, device=self.device, dtype=self.dtype, compile=self.compile)
        return self._loaded[name]

    def asker(self, name: str | None = None) -> Asker:
        """A model with the file of its answers. Raises what `load` raises, and SettingError where another run has the
        file, or it holds answers of another model, dtype, seed or version."""
        name = name or self.model
        if name not in self._askers:
            path = None if self.out is None else self.out / f"answers.{_plain(name)}.jsonl"
            common = {**self.common(name), "batch_size": BATCH}
            self._askers[name] = Asker(self.lm(name), Store(path, common, _ANSWERS), self.seed, BATCH)
        return self._askers[name]

    def common(self, name: str | None = None) -> dict[str, Any]:
        """What all that is measured on a model has in common; it need not be loaded. Raises what `load` raises."""
        name, place = name or self.model, find_device(self.device)
        return {
            "model": name,
            "fingerprint": fingerprint(find_model(name)),
            "device": place.type,
            "dtype": str(find_dtype(self.dtype, place)).removeprefix("torch."),
            **compiled_as(self.compile),
            "seed": self.seed,
            "version": installed_version(),
        }

    @property
    def kept(self) -> int:
        """Answers in the files that were opened."""
        return sum(len(asker.store) for asker in self._askers.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for asker in self._askers.values():
            asker.store.__exit__(kind, error, trace)


def _plain(name: str) -> str:
    """The last part of a model's name, as a part of a file's."""
    return re.sub(r"[^\w.@-]+", "-", Path(name).name) or "model"
