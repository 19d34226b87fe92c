"""What studies measure with: models, each loaded once, and a line of progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dkv.lm import DiffusionLM, load

__all__ = ["Kit"]


@dataclass
class Kit:
    """model: what `load` takes, studied unless a cell names another; tell: takes a line of progress."""

    model: str = "tiny"
    device: str = "auto"
    dtype: str = "auto"
    tell: Callable[[str], None] = lambda note: None
    _loaded: dict[str, DiffusionLM] = field(default_factory=dict)

    def lm(self, name: str | None = None) -> DiffusionLM:
        """A model by name, the studied one by default. Raises what `load` raises."""
        name = name or self.model
        if name not in self._loaded:
            self._loaded[name] = load(name, device=self.device, dtype=self.dtype)
        return self._loaded[name]
