"""What preparing faster forwards took: seconds, and what could not be prepared."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CompileReport"]


@dataclass
class CompileReport:
    """graphs: built or captured so far; seconds: that took, the steps in which it happened included; refused: kinds of
    forwards that run without; note: why the first of them does, or else what was prepared; one line."""

    graphs: int = 0
    seconds: float = 0.0
    refused: int = 0
    note: str = ""

    def __str__(self) -> str:
        told = [f"{self.graphs} graphs in {self.seconds:.1f} s, counted in the seconds"] if self.graphs else []
        if self.refused:
            told.append(f"not for {self.refused} of its kinds of forwards ({self.note})")
        elif self.note:
            told.append(self.note)
        return "; ".join(told) or "nothing came up yet"

    def refuse(self, error: Exception) -> None:
        """Note that something could not be prepared."""
        self.refused += 1
        while (cause := error.__cause__ or error.__context__) is not None and isinstance(cause, Exception):
            error = cause
        if not self.note:
            first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            self.note = f"{type(error).__name__}: {first}" if first else type(error).__name__
