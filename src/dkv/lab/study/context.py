"""What studies measure with: models, each loaded once, the answers that studies share, and a line of progress."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import torch

from dkv.checkpoints.weight_files import fingerprint
from dkv.lab.bench.shapes import named_shape, random_model
from dkv.lab.eval.answers import Asker
from dkv.layers.transformer import Transformer
from dkv.lm import DiffusionLM
from dkv.loading import compiled_as, find_device, find_dtype, find_model, load, loaded_as
from dkv.storage.jsonl import Store, StoreFormat
from dkv.version import VERSION

__all__ = ["BATCH", "Kit"]

BATCH = 20
"""Prompts that share a batch: what an interruption can lose of one setting."""

_ANSWERS = StoreFormat("dkv-study-answers 1", "dkv study", "give another directory")


@dataclass
class Kit:
    """model, device, dtype, compile: as `load` takes them. A context manager that closes the answers' files."""

    model: str = "tiny"  # the one that is studied, unless a cell names another
    device: str = "auto"
    dtype: str = "auto"
    compile: bool = False
    tell: Callable[[str], None] = lambda note: None  # takes a line of progress
    seed: int = 0  # of all answers
    out: Path | None = None  # the directory of the answers' files; None = none are kept
    _loaded: dict[str, DiffusionLM] = field(default_factory=dict)
    _drawn: dict[str, Transformer] = field(default_factory=dict)
    _askers: dict[str, Asker] = field(default_factory=dict)

    def lm(self, name: str | None = None) -> DiffusionLM:
        """A model by name, the studied one by default. Raises what `load` raises."""
        name = name or self.model
        if name not in self._loaded:
            self._loaded[name] = load(name, device=self.device, dtype=self.dtype, compile=self.compile)
        return self._loaded[name]

    def in_float32(self) -> Kit:
        """The same with models of its own in float32."""
        return Kit(self.model, self.device, "float32", self.compile, self.tell)

    def random_weights(self, shape: str) -> Transformer:
        """A model of a shape in float32, of which one is kept. Raises SpecError, and SettingError for the device."""
        if shape not in self._drawn:
            place = find_device(self.device)
            drawn = loaded_as(random_model(named_shape(shape), torch.float32, device=place), place, shape)
            self._drawn = {shape: cast("Transformer", drawn.network)}
        return self._drawn[shape]

    def asker(self, name: str | None = None) -> Asker:
        """A model with the file of its answers. Raises what `load` raises, and SettingError where another run has the
        file, or it holds answers of another model, dtype, seed or version."""
        name = name or self.model
        if name not in self._askers:
            last = re.sub(r"[^\w.@-]+", "-", Path(name).name) or "model"  # of the name, as a part of a file's
            path = None if self.out is None else self.out / f"answers.{last}.jsonl"
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
            "version": VERSION,
        }

    @property
    def kept(self) -> int:
        """Answers in the files that were opened."""
        return sum(len(asker.store) for asker in self._askers.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for asker in self._askers.values():
            asker.store.__exit__(*error)
