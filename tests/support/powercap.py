"""A stand-in for Linux's energy counters."""

from __future__ import annotations

from pathlib import Path


def zone(root: Path, directory: str, name: str, energy: int | None, most: int = 999) -> None:
    (root / directory).mkdir()
    (root / directory / "name").write_text(f"{name}\n")
    (root / directory / "max_energy_range_uj").write_text(f"{most}\n")
    if energy is not None:
        (root / directory / "energy_uj").write_text(f"{energy}\n")
