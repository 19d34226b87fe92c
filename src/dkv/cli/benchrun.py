"""The run of `dkv bench`: a progress bar with the time left, on a terminal only."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.text import Text

from dkv.cli.console import printable, stderr_console
from dkv.cli.live import region

if TYPE_CHECKING:
    from dkv.lab.bench.bench_session import BenchSession
    from dkv.lab.bench.grid import Cell

__all__ = ["BenchProgress", "run", "spelled"]


def run(session: BenchSession) -> None:
    """Measure what is outstanding."""
    from dkv.lab.bench.bench_session import cost_of

    groups = session.outstanding
    progress = BenchProgress([cost_of(group) for group in groups])
    with region(stderr_console()) as show:

        def tell(what: str, share: float) -> None:
            if show is not None:
                where = _place(groups[progress.done][0])
                show(progress.drawn(printable(f"{where}: {what}"), share))

        for _ in session.run(tell):
            progress.done += 1


def _place(cell: Cell) -> str:
    return f"{cell.numbers}, prompt {cell.prompt}, gen {cell.gen}, batch {cell.batch}"


@dataclass
class BenchProgress:
    """How far a run is. costs: of each group, in no unit; done: groups finished; what: a group's name in the line."""

    costs: list[int]
    done: int = 0
    what: str = "group"
    began: float = field(default_factory=time.monotonic)

    def share(self, within: float) -> float:
        """Of all, with a share of the group that is running."""
        spent = sum(self.costs[: self.done]) + within * self.costs[self.done]
        return spent / sum(self.costs)

    def left(self, within: float) -> float | None:
        """Seconds to the end, at the pace so far; None before there is one."""
        share = self.share(within)
        return (time.monotonic() - self.began) * (1 - share) / share if share else None

    def drawn(self, what: str, within: float) -> Group:
        """Two lines: the bar, and what is going on."""
        left = self.left(within)
        place = f"{self.what} {self.done + 1} of {len(self.costs)}"
        line = f"{place}, {what}" + ("" if left is None else f", {spelled(left)} left")
        return Group(ProgressBar(total=1.0, completed=self.share(within), width=60), Text(line, no_wrap=True))


def spelled(seconds: float) -> str:
    """A duration in words."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
