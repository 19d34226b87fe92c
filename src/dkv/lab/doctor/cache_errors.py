"""What a cache gets wrong on the canvas of no cache, summed up over steps: what it reads, and what its memory holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from dkv.core.drift import drift
from dkv.lab.study.layer_probes import Keep, buffers_of
from dkv.lab.study.side_by_side import Beside
from dkv.layers.v_verify import ADDED

__all__ = ["Errors"]

_AGES = (1, 2, 4, 8, 16, 32, 64)
"""Lower ends of the ages that are told apart."""


@dataclass
class Errors:
    """Of one follower, summed up over steps and sequences.

    slots: sums by layer [L] of 1 - cosine between what attention read and what no cache computes: the mean of keys and
    values at decided tokens of the response (`decoded`) and at `prompt`; of what the layer added to the stream in the
    response (`features`), where the cache keeps that. counts: of each.
    """

    stops: tuple[int, ...] = ()  # ids that end a text, and are no part of it
    decided: int = 0  # tokens of texts that no cache fixed
    flipped: int = 0  # those of them where the cache's choice is another
    rows: int = 0  # positions that both read
    divergence: float = 0.0  # the sum there of KL(no cache || cache), in nats
    slots: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    # By how many steps ago prompt positions were computed: the sum of the mean over layers there, and their count.
    ages: dict[int, tuple[float, int]] = field(default_factory=dict)

    def add(self, step: Beside) -> None:
        """Count a step."""
        self._read(step)
        moved = (_between(step, "k") + _between(step, "v")) / 2
        self._slots("decoded", moved, step.decoded)
        self._slots("prompt", moved, step.prompt)
        self._aged(moved.mean(0), step)
        if ADDED in step.memory.layers[-1].buffers:
            response = step.told.rows & step.told.step.canvas.response
            self._slots("features", _between(step, ADDED, of=Keep.buffers), response)

    @property
    def kl(self) -> float:
        """Mean KL(no cache || cache) where both read, in nats."""
        return self.divergence / max(self.rows, 1)

    def mean(self, kind: str) -> list[float]:
        """Mean error by layer; [] where there was nothing."""
        count = self.counts.get(kind, 0)
        return [float(v) / count for v in self.slots[kind]] if count else []

    def _slots(self, kind: str, moved: Tensor, where: Tensor) -> None:
        """moved [L, B, T] at `where` [B, T]."""
        total = (moved * where).sum((1, 2)).double().cpu()
        self.slots[kind] = self.slots[kind] + total if kind in self.slots else total
        self.counts[kind] = self.counts.get(kind, 0) + int(where.sum())

    def _aged(self, moved: Tensor, step: Beside) -> None:
        """moved [B, T] at the prompt's positions, by age."""
        age = step.clock[:, None] - step.computed_at
        for low, high in zip(_AGES, (*_AGES[1:], 1 << 62), strict=True):
            where = step.prompt & (age >= low) & (age < high)
            if count := int(where.sum()):
                total, number = self.ages.get(low, (0.0, 0))
                self.ages[low] = (total + float((moved * where).sum()), number + count)

    def _read(self, step: Beside) -> None:
        told, own = step.told.predictions, step.own.predictions
        if told is None or own is None:
            return
        both, ours = torch.isin(told.flat, own.flat), torch.isin(own.flat, told.flat)
        flat, token = told.flat[both], told.token[both]
        exact, approximate = told.logits[both].log_softmax(1), own.logits[ours].log_softmax(1)
        fixed = step.told.committed.view(-1)[flat] & ~torch.isin(token, torch.tensor(self.stops, device=token.device))
        self.rows += len(flat)
        self.divergence += float(F.kl_div(approximate, exact, reduction="none", log_target=True).sum())
        self.decided += int(fixed.sum())
        self.flipped += int((fixed & (token != own.token[ours])).sum())


def _between(step: Beside, name: str, of: Sequence[str] = ()) -> Tensor:
    """1 - cosine [L, B, T] between a buffer of the follower and that of the leader, or the sum `of` others there; 0 in
    layers where the follower keeps none."""
    kept = [i for i, layer in enumerate(step.memory.layers) if name in layer.buffers]
    exact = torch.stack([buffers_of(step.exact.layers, each) for each in of or (name,)]).sum(0)
    own = buffers_of([step.memory.layers[i] for i in kept], name)
    found = torch.zeros(exact.shape[:3], device=exact.device)
    found[kept] = drift(own.flatten(0, 2), exact[kept].flatten(0, 2), "cosine").view(own.shape[:3])
    return found
