"""The canvas: the token grid that is being denoised, and when each of its tokens was fixed.

It knows nothing of models, caches or decoders. Rows are sequences, right-padded; position p of a sequence is slot p
of every buffer, for ever, so positions always start at 0 and padding never sits between tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["GIVEN", "NEVER", "Canvas", "lay_out", "lowest"]

GIVEN = -1
"""`committed_at` of a token that was there from the start (and of padding)."""

NEVER = 1 << 62
"""`committed_at` of a masked position: later than any clock."""


@dataclass
class Canvas:
    """A batch of sequences under denoising. B sequences, T positions (the longest sequence).

    tokens [B, T] int64; prompt [B] and length [B]: prompt length, and prompt plus response length; committed_at [B, T]:
    the clock of the forward that fixed the token, GIVEN, or NEVER while masked; seed [B]: each request's own seed;
    request [B]: the caller's number of each sequence; position [T]; live and response [B, T]: positions that exist, and
    those after the prompt; guide [B] or None: for guidance, the row whose response this row (with its prompt masked)
    mirrors, -1 for a sequence of its own. Which positions are masked is read from `committed_at`, never by
    comparing tokens with the mask id: a user's text may contain it, and holes may lie inside given text.
    """

    tokens: Tensor
    prompt: Tensor
    length: Tensor
    committed_at: Tensor
    seed: Tensor
    request: Tensor
    position: Tensor
    live: Tensor
    response: Tensor
    guide: Tensor | None = None

    @cached_property
    def guides(self) -> Tensor | None:
        """[B] which rows are guides; None where no row is."""
        return None if self.guide is None else self.guide >= 0

    def mirrored(self, x: Tensor) -> Tensor:
        """x [B, ...] with the entry of each guide row taken from the row that it mirrors."""
        if self.guide is None:
            return x
        return x[torch.where(self.guide >= 0, self.guide, torch.arange(len(self.guide), device=x.device))]

    @property
    def masked(self) -> Tensor:
        """[B, T] positions that are still to be fixed."""
        return self.committed_at == NEVER


def lay_out(
    prompts: Sequence[Sequence[int]],
    gen_length: int,
    mask_id: int,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    first_request: int = 0,
    guided: bool = False,
) -> Canvas:
    """Put each prompt at the left of its row, followed by `gen_length` masked positions; pad on the right. guided: add
    a guide row for each, its prompt masked."""
    count = len(prompts)
    if guided:
        prompts = [*prompts, *([mask_id] * len(p) for p in prompts)]
        seeds = [*seeds, *seeds]
    batch, width = len(prompts), max(map(len, prompts)) + gen_length
    tokens = torch.full((batch, width), mask_id, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(list(prompt), dtype=torch.int64)
    prompt_length = torch.tensor([len(p) for p in prompts], dtype=torch.int64)
    length = prompt_length + gen_length
    position = torch.arange(width)
    live = position < length[:, None]
    response = live & (position >= prompt_length[:, None])
    guide = torch.arange(-count, count).clamp(min=-1) if guided else None
    return Canvas(
        tokens=tokens.to(device),
        prompt=prompt_length.to(device),
        length=length.to(device),
        committed_at=torch.where(response, NEVER, GIVEN).to(device),
        seed=torch.tensor(list(seeds), dtype=torch.int64, device=device),
        request=(first_request + torch.arange(batch) % count).to(device),
        position=position.to(device),
        live=live.to(device),
        response=response.to(device),
        guide=None if guide is None else guide.to(device),
    )


def lowest(key: Tensor, count: Tensor) -> Tensor:
    """Mark, in each row of key [B, T], the `count` [B] lowest entries; ties go to the lowest position. [B, T] bool."""
    order = key.sort(dim=1, stable=True).indices
    inside = torch.arange(key.shape[1], device=key.device) < count[:, None]
    return torch.zeros_like(inside).scatter_(1, order, inside)
