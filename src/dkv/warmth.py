"""What preparing faster forwards took: seconds, and what could not be prepared."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Warmth"]


@dataclass
class Warmth:
    """graphs: built or captured so far; seconds: that took, the steps in which it happened included; refused: kinds of
    forwards that run without, and note: why the first of them does, one line."""

    graphs: int = 0
    seconds: float = 0.0
    refused: int = 0
    note: str = ""

    def refuse(self, error: Exception) -> None:
        """Note that something could not be prepared."""
        self.refused += 1
        if not self.note:
            first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            self.note = f"{type(error).__name__}: {first}" if first else type(error).__name__
