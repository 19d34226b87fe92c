"""Settings of dllm-cache over lengths: what the study `length-params` measured, as its plot and rule read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dkv.lab.eval.statistics import Difference

__all__ = ["NEAR", "PUBLISHED", "Found", "Params"]

NEAR = 1.1
"""Times the least seconds: what counts as near the best."""


@dataclass(frozen=True)
class Params:
    """dllm-cache's settings."""

    kp: int
    kr: int
    rho: float

    @property
    def spec(self) -> str:
        """As `make_cache` takes it."""
        return f"dllm-cache:kp={self.kp},kr={self.kr},rho={self.rho:g}"

    def __str__(self) -> str:
        return f"kp {self.kp}, kr {self.kr}, rho {self.rho:g}"


PUBLISHED = Params(50, 7, 0.25)


@dataclass(frozen=True)
class Found:
    """Records by what they tell. seconds: by positions and setting; none: by positions, of the same cells; fidelity:
    results by setting."""

    seconds: dict[int, dict[Params, float]]
    none: dict[int, dict[float, float]]
    fidelity: dict[Params, Any]

    def speedup(self, positions: int, params: Params) -> float:
        """No cache's seconds over its own, of one cell."""
        return self.none[positions][params.rho] / self.seconds[positions][params]

    @property
    def faithful(self) -> list[Params]:
        """Settings that are not shown to lose: against the most faithful one, on the same prompts, the 95% interval of
        the difference in texts that are no cache's reaches 0."""
        if not self.fidelity:
            return []
        best = max(self.fidelity, key=lambda params: sum(self.fidelity[params]["same"]))
        return [params for params in self.fidelity if self.against(params, best).interval[1] >= 0]

    def against(self, params: Params, other: Params) -> Difference:
        """Texts that are no cache's: this setting's less the other's."""
        return Difference.of(self.fidelity[params]["same"], self.fidelity[other]["same"])

    def good(self, positions: int) -> list[Params]:
        """Of the faithful settings, those within NEAR of the fastest."""
        times = {params: s for params, s in self.seconds[positions].items() if params in self.faithful}
        return [params for params, s in times.items() if s <= NEAR * min(times.values())]
