"""What requests must have in common to share forwards and buffers."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from dkv.core.layer_rules import Rules
from dkv.engine.request_errors import is_own
from dkv.errors import RequestError

__all__ = ["BatchKey"]

_MOST_BUFFERS = 16
"""Feature buffers that a layer may keep, each as large as the model's width."""


@dataclass(frozen=True)
class BatchKey:
    """What the sequences of a batch have in common.

    A rule may be another package's code, and a key is used where nothing may fail: so keys are equal where their rules
    are one object, and the buffers are asked for once. Raises RequestError for buffers that are none."""

    width: int
    """Slots of a sequence; 0 = as many as the longest needs."""
    rules: Rules = field(compare=False)
    """Of the layers."""
    guided: bool
    """Each has an unconditional row."""
    dtype: torch.dtype
    """Of the cache."""
    buffers: tuple[tuple[str, ...], tuple[str, ...]] = field(init=False, compare=False, repr=False)
    """Names of the buffers that the rules keep, of the first layer and of the others."""
    _rules: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rules", id(self.rules))
        object.__setattr__(self, "buffers", self.rules.buffers)
        for names in self.buffers:
            if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
                raise RequestError("the buffers of a layer rule must be a tuple of names")
            if len(names) > _MOST_BUFFERS:
                raise RequestError(f"the buffers of a layer rule must be at most {_MOST_BUFFERS}, not {len(names)}")

    @property
    def rows(self) -> int:
        """Rows of a sequence."""
        return 2 if self.guided else 1

    @property
    def is_own(self) -> bool:
        """Whether no layer follows another package's rules."""
        return all(rule is None or is_own(rule) for rule in (self.rules.first, self.rules.rest))
