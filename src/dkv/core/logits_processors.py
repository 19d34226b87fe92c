"""Logits processors: what changes logits before a token is chosen, one processor after another.

Caches and decoders see nothing of it: the confidences and logits in `Predictions` are those of the model.

To add one: a class with `__call__` as in `LogitsProcessor`, a constructor `of` that returns None where no sequence asks
for it, a line in `logits_processors_of`, and its option in `ProcessorOptions` and `dkv.params`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dkv.core.canvas import Canvas

__all__ = [
    "EndOfTextControl",
    "LogitsProcessor",
    "ProcessorOptions",
    "QueriedPositions",
    "RepetitionPenalty",
    "logits_processors_of",
]


@dataclass(frozen=True, eq=False)
class QueriedPositions:
    """Whose logits they are."""

    sequence: Tensor
    """[M] row of the canvas, ascending."""
    position: Tensor
    """[M] position in that row."""
    canvas: Canvas
    """Tokens and when each was committed, before this step commits any. Not to be changed."""


class LogitsProcessor(Protocol):
    """Changes the logits of each sequence on its own, by parameters with one entry for each row of the canvas [B], so
    that sequences with different values share a batch. Where a value asks for nothing the logits stay as they are, to
    the bit."""

    def __call__(self, logits: Tensor, positions: QueriedPositions) -> Tensor:
        """The logits [M, V] to choose from, given those of the processor before it: float32, for the mask token too,
        which is never chosen. They may be changed in place: they are a copy. No host sync."""
        ...


class ProcessorOptions(Protocol):
    """The options of a sequence that logits processors read, as in `dkv.SamplingParams`."""

    @property
    def eos_penalty(self) -> float:
        """See `EndOfTextControl.penalty`."""
        ...

    @property
    def min_tokens(self) -> int:
        """Positions at the start of the response that hold no end-of-text token."""
        ...

    @property
    def repetition_penalty(self) -> float:
        """See `RepetitionPenalty.penalty`."""
        ...


def logits_processors_of(
    options: Sequence[ProcessorOptions], prompt: Tensor, eos_ids: Sequence[int]
) -> tuple[LogitsProcessor, ...]:
    """The processors that sequences with such options [B] need, in the order in which they apply; prompt [B]: lengths
    of their prompts; eos_ids: the tokens that end a text."""
    processors = (EndOfTextControl.of(options, prompt, eos_ids), RepetitionPenalty.of(options, prompt.device))
    return tuple(processor for processor in processors if processor is not None)


@dataclass(frozen=True, eq=False)
class EndOfTextControl:
    """Weighs against the end of the text: a long canvas commits end-of-text tokens at its far positions first."""

    ids: Tensor
    """[K] the tokens that end a text."""
    penalty: Tensor
    """[B] what is subtracted from their logits."""
    first: Tensor
    """[B] the first position of the canvas at which one may be chosen."""

    @classmethod
    def of(cls, options: Sequence[ProcessorOptions], prompt: Tensor, eos_ids: Sequence[int]) -> EndOfTextControl | None:
        """That of sequences with such options [B] and prompts of such lengths [B]; None where none asks for it."""
        if not any(each.eos_penalty or each.min_tokens for each in options):
            return None
        penalty = torch.tensor([float(each.eos_penalty) for each in options], device=prompt.device)
        barred = torch.tensor([each.min_tokens for each in options], device=prompt.device)
        return cls(torch.tensor(eos_ids, device=prompt.device), penalty, prompt + barred)

    def __call__(self, logits: Tensor, positions: QueriedPositions) -> Tensor:
        """Subtract the penalty; -inf before the first position."""
        barred = positions.position < self.first[positions.sequence]
        amount = torch.where(barred, torch.inf, self.penalty[positions.sequence])
        logits[:, self.ids] -= amount[:, None]
        return logits


@dataclass(frozen=True, eq=False)
class RepetitionPenalty:
    """Weighs against tokens that the canvas holds already: CTRL's penalty (Keskar et al. 2019, arXiv 1909.05858,
    section 4.1) as other engines apply it, which makes a negative logit lower, not higher.

    Every committed token of the sequence counts once, wherever it stands: in the prompt, in the response (what ends the
    text included) or after it. Masked positions and padding do not."""

    penalty: Tensor
    """[B] a positive logit is divided by it, a negative one multiplied; 1 = none; below 1 favours repetition."""

    @classmethod
    def of(cls, options: Sequence[ProcessorOptions], device: torch.device) -> RepetitionPenalty | None:
        """That of sequences with such options [B]; None where none asks for it."""
        if all(each.repetition_penalty == 1 for each in options):
            return None
        return cls(torch.tensor([float(each.repetition_penalty) for each in options], device=device))

    def __call__(self, logits: Tensor, positions: QueriedPositions) -> Tensor:
        """Divide or multiply the logits of the tokens that are there."""
        canvas, sequence = positions.canvas, positions.sequence
        committed = canvas.live & ~canvas.unfixed
        # What is not committed stands for the first that is: the same logit is written twice. A sequence without any
        # has no penalty.
        stand_in = canvas.tokens.gather(1, committed.int().argmax(1, keepdim=True))
        tokens = torch.where(committed, canvas.tokens, stand_in)[sequence]
        penalty = torch.where(committed.any(1), self.penalty, 1.0)[sequence, None]
        present = logits.gather(1, tokens)
        return logits.scatter_(1, tokens, torch.where(present > 0, present / penalty, present * penalty))
