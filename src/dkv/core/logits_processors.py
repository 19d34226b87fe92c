"""How a text may end: what an end-of-text token is charged when a token is chosen, and where none is chosen at all.

A long canvas draws end-of-text tokens to its far positions first, and with them the end of the text. The charge
weighs against that. Decoders see nothing of it: confidences and logits stay those of the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dkv.core.sampling import Debit

__all__ = ["Endings"]


@dataclass(frozen=True)
class Endings:
    """ids [K]: the tokens that end a text; penalty [B]: what they are charged, in logits; first [B]: the first position
    of the canvas at which one may be chosen."""

    ids: Tensor
    penalty: Tensor
    first: Tensor

    def at(self, sequence: Tensor, position: Tensor) -> Debit:
        """The charge at `position` [M] of `sequence` [M]."""
        barred = position < self.first[sequence]
        return Debit(self.ids, torch.where(barred, torch.inf, self.penalty[sequence]))
