"""Joules, where the machine reports them: the processor packages' counters that Linux shows under powercap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Meter", "find_meter"]

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Meter:
    """Counters in microjoules that wrap around after `ranges`. They count all that the packages do, not this process
    alone."""

    counters: tuple[Path, ...]
    ranges: tuple[int, ...]

    def read(self) -> tuple[int, ...]:
        """What each counter shows, in microjoules."""
        return tuple(int(path.read_text(encoding="ascii")) for path in self.counters)

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Spent between two readings less than a wrap apart (minutes)."""
        spent = ((b - a) % most for a, b, most in zip(before, after, self.ranges, strict=True))
        return sum(spent) / 1e6


def find_meter(root: Path = POWERCAP) -> Meter | None:
    """The meter over all packages; None where there is none, or only the administrator may read it."""
    counters, ranges = [], []
    for zone in sorted(root.glob("*")):
        try:
            # The zones within a package, and the platform's, count the same energy again.
            if not (zone / "name").read_text(encoding="ascii").startswith("package"):
                continue
            ranges.append(int((zone / "max_energy_range_uj").read_text(encoding="ascii")) + 1)
            int((zone / "energy_uj").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        counters.append(zone / "energy_uj")
    return Meter(tuple(counters), tuple(ranges)) if counters else None
