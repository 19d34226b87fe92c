"""No cache: every live row, every step. The baseline, and the definition of what the others approximate."""

from dataclasses import dataclass
from typing import ClassVar

from dkv.core.policy import Plan, Step

__all__ = ["NoCache"]


@dataclass(frozen=True)
class NoCache:
    """No cache. Recomputes every position at every step: the baseline that the caches are compared with."""

    name: ClassVar[str] = "none"

    def plan(self, step: Step) -> Plan:
        """Compute everything."""
        return Plan(step.canvas.live)
