"""How far a batch job is, how fast it goes, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dkv.jobs.records import Record, failure_of, tokens_of

__all__ = ["JobProgress"]


@dataclass
class JobProgress:
    """Counts of a job. total: prompts of the input; before: those that an earlier run finished; done: those of this
    run, errors included; tokens: new ones of this run; steps: of the engine in this run (on Ray, chunks that came);
    clock: seconds."""

    total: int
    before: int = 0
    done: int = 0
    failed: int = 0
    tokens: int = 0
    steps: int = 0
    clock: Callable[[], float] = time.monotonic
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def add(self, records: Sequence[Record]) -> None:
        """Count finished records."""
        self.done += len(records)
        self.failed += sum(failure_of(record) is not None for record in records)
        self.tokens += sum(tokens_of(record) for record in records)

    @property
    def finished(self) -> int:
        """Prompts that are finished, by this run or before."""
        return self.before + self.done

    @property
    def share(self) -> float:
        """Of the whole job."""
        return self.finished / self.total

    @property
    def seconds(self) -> float:
        """Since this run began."""
        return self.clock() - self.began

    @property
    def left(self) -> float | None:
        """Seconds to the end at this run's pace; None before there is one."""
        return self.seconds / self.done * (self.total - self.finished) if self.done else None

    @property
    def rates(self) -> tuple[float, float]:
        """Prompts and new tokens a second, in this run."""
        seconds = self.seconds
        return (self.done / seconds, self.tokens / seconds) if seconds else (0.0, 0.0)
