"""What a study is: a claim, the cells that test it, a chart of what they gave, and a verdict written by a rule.

A cell is what is measured at once and kept at once, named by JSON values alone: what a file has of a study is never
measured again. Studies know nothing of files or the command line; the session (`dkv.lab.study.study_session`) knows
nothing of what a study measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from dkv.lab.common.charts import Chart

if TYPE_CHECKING:
    from dkv.lab.study.context import Kit

__all__ = ["Cell", "Effort", "Record", "Study", "Verdict"]

Cell = dict[str, Any]
"""All that decides a measurement: JSON values by name."""


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    quick: bool = False  # fewer settings, shorter lengths
    count: int = 200  # examples of each task under each setting
    seed: int = 0
    model: str = "tiny"  # the one studied, for studies of several


@dataclass(frozen=True)
class Record:
    """A measured cell."""

    cell: Cell
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What follows for a claim."""

    held: bool | None  # None where the examples are too few to tell
    sentence: str  # with the figures; a difference comes with its count and interval


class Study(Protocol):
    """One experiment of the field."""

    @property
    def name(self) -> str:
        """As the command spells it."""
        ...

    @property
    def claim(self) -> str:
        """What is claimed, and where."""
        ...

    def cells(self, effort: Effort) -> Sequence[Cell]:
        """What there is to measure."""
        ...

    def measure(self, kit: Kit, cells: Sequence[Cell]) -> Iterator[Record]:
        """Measure some of the cells, in any order, each yielded as soon as it is there. Raises what loading and
        generating raise."""
        ...

    def chart(self, records: Sequence[Record]) -> Chart:
        """The plot of all cells of an effort, in their order; there is at least one."""
        ...

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """What follows for the claim from all cells of an effort, in their order."""
        ...
