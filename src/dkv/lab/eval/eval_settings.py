"""What is varied between evaluations: one row of a table."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["Setting"]


@dataclass(frozen=True)
class Setting:
    """How to generate. decoder, cache: specs; block_length, steps, gen_length: None = one block of the response, one
    token a step, and the task's own length; grow: whether the canvas grows by blocks, up to that length."""

    decoder: str
    cache: str
    cfg_scale: float = 0.0
    block_length: int | None = None
    steps: int | None = None
    gen_length: int | None = None
    grow: bool = False

    @property
    def base(self) -> Setting:
        """What it is compared with: no cache, all else equal."""
        return replace(self, cache="none")

    def __str__(self) -> str:
        """All but the cache and what is as usual."""
        given = {"block_length": self.block_length, "steps": self.steps, "gen_length": self.gen_length}
        guided = f", cfg_scale={self.cfg_scale:g}" if self.cfg_scale else ""
        grows = ", grow" if self.grow else ""
        return self.decoder + guided + "".join(f", {name}={value}" for name, value in given.items() if value) + grows
