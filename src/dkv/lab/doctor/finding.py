"""What the doctor says of one possible trouble, and from where on it is one. All thresholds stand here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["AGREEMENT", "FLIPS", "LAYER", "OVERHEAD", "PROMPT", "SETTLED", "STATUSES", "Finding", "FindingThreshold"]

STATUSES = ("fine", "watch", "trouble")


@dataclass(frozen=True)
class Finding:
    """One section. name: short; status: of `STATUSES`; measured: a sentence with its n; advice: what to try; figures:
    the numbers behind it, as JSON values."""

    name: str
    status: str
    measured: str
    advice: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FindingThreshold:
    """From `watch` and from `trouble` on, in one direction: upwards, or downwards where trouble is the lower."""

    watch: float
    trouble: float
    reason: str

    def status(self, value: float) -> str:
        """Of a value. NaN is fine: nothing was measured."""
        sign = 1 if self.trouble > self.watch else -1
        return STATUSES[(sign * value >= sign * self.watch) + (sign * value >= sign * self.trouble)]


SETTLED = FindingThreshold(
    0.01, 0.05, "1 - cosine; a token moves about 0.3 when it is decoded, so these are a thirtieth and a sixth of that"
)
FLIPS = FindingThreshold(
    0.005, 0.02, "of a text's tokens; errors go on from each, and at one in 50 about half of all texts of 35 have one"
)
AGREEMENT = FindingThreshold(
    0.98, 0.9, "share of tokens equal to no cache's; below, answers differ and not only wording"
)
LAYER = FindingThreshold(0.02, 0.1, "1 - cosine in the worst layer, whose error all layers above it inherit")
PROMPT = FindingThreshold(0.01, 0.05, "1 - cosine, as for decoded tokens: attention reads both alike")
OVERHEAD = FindingThreshold(0.3, 0.5, "share of a step; from a half on, fewer rows can no longer double the speed")
