"""DPad (Chen et al., arXiv 2508.14148): the masked positions far after the active block are mostly left out.

A masked suffix says little but that there is room, and the farther off, the less. A masked position after the block is
kept with a probability that falls with its distance as a bell curve does, none beyond a window; what is not kept is
neither computed nor attended to, and keeps its position all the same. Together with Fast-dLLM's prefix cache, as its
program runs it. The defaults are those of the program itself; its scripts for GSM8K have a window of 256.

Published, the draw is made anew for each block. Here it is keyed by the position alone: what is kept once stays kept as
blocks come nearer, and neither batch nor rerun nor seed changes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dkv.caches.dkv_cache import require
from dkv.caches.fast_dllm import Prefix, opening
from dkv.core.policy import Plan, Step
from dkv.core.sampling import keyed_uniform, noise_key
from dkv.core.values import require_number

__all__ = ["Dpad"]

_CLOCK = -3
"""A clock that no forward has, so that this draw never meets those of sampling, nor of decoders."""


@dataclass(frozen=True)
class Dpad:
    """DPad. As fast-prefix, but most masked positions after the active block are left out altogether: the farther
    away, the more of them, and all from `window` positions on.

    A masked position, the d-th after the block (from 0), is kept with probability scale * n(sigma * d / (window - 1)),
    n being the density of the standard normal distribution; from `window` on never. Given text is always kept.
    published: on Dream, fix a block's first position at its first forward, as its program does (see fast-prefix).
    """

    name: ClassVar[str] = "dpad"
    window: int = 128
    sigma: float = 4.0
    scale: float = 2.0
    published: bool = False

    def __post_init__(self) -> None:
        require(self.name, "window", self.window, 1)
        for key in ("sigma", "scale"):
            require_number(f"cache={self.name!r}", key, getattr(self, key), "0 or a positive number")

    def plan(self, step: Step) -> Plan:
        """The block, what lies before it, and the thinned rest."""
        kept = ~step.masked | self._drawn(step)
        return opening(step, Plan(Prefix().plan(step).rows & kept, visible=kept), self.published)

    def _drawn(self, step: Step) -> Tensor:
        """[B, T] the positions up to the block's end, and of the others the ones that are kept if masked."""
        position = step.canvas.position
        key = noise_key(torch.zeros_like(position), torch.full_like(position, _CLOCK), position)
        distance = position - step.block[1][:, None]
        far = self.sigma * distance / max(self.window - 1, 1)
        share = self.scale * torch.exp(-0.5 * far * far) / math.sqrt(2 * math.pi)
        kept = (share >= keyed_uniform(key, 1).T) & (distance < self.window)
        return kept | (distance < 0)
