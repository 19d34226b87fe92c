"""How a policy's cost and speed-up go with the length, as the plot and the rule of the study `length` read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dkv.lab.bench.fit import Exponent, fit_exponent

__all__ = ["GREW", "LengthCurve"]

GREW = 1.1
"""Times its speed-up at the shortest length that the longest must show to have grown."""


@dataclass(frozen=True)
class LengthCurve:
    """A policy over the lengths. growing: "prompt", or "both"; points: (positions, result) by positions."""

    policy: str
    growing: str
    points: tuple[tuple[int, Any], ...]

    @property
    def positions(self) -> list[int]:
        """Of each point."""
        return [at for at, _ in self.points]

    @property
    def speedups(self) -> list[float]:
        """No cache's seconds over its own, at each point."""
        return [result["none_seconds"] / result["seconds"] for _, result in self.points]

    @property
    def exponent(self) -> Exponent | None:
        """Of its seconds in the positions."""
        return fit_exponent(self.positions, [result["seconds"] for _, result in self.points])

    @property
    def grew(self) -> bool:
        """Whether the speed-up at the longest length is that at the shortest times GREW at least."""
        return self.speedups[-1] >= GREW * self.speedups[0]

    def __str__(self) -> str:
        counted = " to ".join(f"{result['llada_saved']:.1f}" for _, result in (self.points[0], self.points[-1]))
        return f"{self.policy.partition(':')[0]} {self.speedups[0]:.1f}x to {self.speedups[-1]:.1f}x ({counted})"
