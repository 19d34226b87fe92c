"""What a study is: a claim, the cells that test it, a plot of what they gave, and a verdict written by a rule.

A cell is what is measured at once and kept at once, named by JSON values alone: what a file has of a study is never
measured again. Studies know nothing of files or the command line; the session (`dkv.lab.study.study_session`) knows
nothing of what a study measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dkv.lab.study.context import Kit

__all__ = ["Cell", "Effort", "Record", "Study", "Verdict"]

Cell = dict[str, Any]
"""All that decides a measurement: JSON values by name."""


@dataclass(frozen=True)
class Effort:
    """How much is measured. quick: fewer settings, shorter lengths; count: examples of each task under each setting;
    model: the one studied, for studies of several."""

    quick: bool = False
    count: int = 200
    seed: int = 0
    model: str = "tiny"


@dataclass(frozen=True)
class Record:
    """A measured cell."""

    cell: Cell
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """Whether the claim held here, None where the examples are too few to tell, and a sentence with the figures; an
    accuracy difference in it comes with its count and interval."""

    held: bool | None
    sentence: str


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

    def figure(self, records: Sequence[Record]) -> Figure:
        """The plot of all cells of an effort, in their order; there is at least one."""
        ...

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """What follows for the claim from all cells of an effort, in their order."""
        ...
