"""One row of a benchmark: its settings, what it was measured with, what came out, and the figures read from that; and
the file of such rows, one a line."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dkv.errors import SettingError
from dkv.lab.bench.grid import Cell
from dkv.storage.jsonl import LineFile, open_alone

__all__ = ["BenchRow", "RepeatSpread", "Result", "append_rows", "key_of", "read_rows", "spread_of"]


def key_of(cell: Cell, versions: Mapping[str, str]) -> str:
    """What makes a row the same row: settings and versions."""
    return json.dumps([cell.key, versions], sort_keys=True)


@dataclass(frozen=True)
class RepeatSpread:
    """The median of some repeats, and the lowest and highest of them."""

    median: float
    low: float
    high: float


def _ratios(of: Sequence[float], over: Sequence[float]) -> RepeatSpread | None:
    """Of each repeat."""
    return spread_of([a / b for a, b in zip(of, over, strict=True)])


def spread_of(values: Sequence[float]) -> RepeatSpread | None:
    """None of nothing."""
    return RepeatSpread(statistics.median(values), min(values), max(values)) if values else None


@dataclass(frozen=True)
class Result:
    """What was measured, of the whole batch. Seconds and joules are of each repeat."""

    seconds: list[float]  # by the wall clock
    cpu_seconds: list[float]  # processor time of this process
    joules: list[float] | None  # energy of the machine; None where it is not reported
    none_seconds: list[float]  # no cache's, repeat by repeat beside them
    none_cpu_seconds: list[float]
    ar_seconds: list[float] | None  # the autoregressive run's; None where it did not run
    ar_tokens: int | None
    new_tokens: int  # up to the end-of-text
    forwards: int  # steps with a forward
    rows_computed: float  # rows through the MLP, averaged over layers
    rows_total: int  # what no cache computes in as many forwards
    flops: int  # of all forwards
    none_flops: int
    peak_bytes: int | None  # held at the highest beside the weights; None where unknown
    cache_bytes: int  # keys, values and features
    weight_bytes: int
    agreement: float | None  # share of tokens equal to no cache's; None of the autoregressive run
    bound_seconds: float  # what the machine's rates allow


@dataclass(frozen=True)
class BenchRow:
    """A cell and its result."""

    cell: Cell
    spec: str  # the cache with every key written out
    environment: dict[str, Any]  # the versions and the machine that it was measured with
    result: Result

    @property
    def key(self) -> str:
        """As `key_of`."""
        return key_of(self.cell, self.environment["versions"])

    @property
    def tokens_per_second(self) -> RepeatSpread | None:
        """Tokens up to the end-of-text, over the seconds of all."""
        return spread_of([self.result.new_tokens / s for s in self.result.seconds])

    @property
    def seconds_per_step(self) -> RepeatSpread | None:
        """Wall-clock seconds of a step."""
        return spread_of([s / self.result.forwards for s in self.result.seconds])

    @property
    def cpu_per_step(self) -> RepeatSpread | None:
        """Processor seconds of a step."""
        return spread_of([s / self.result.forwards for s in self.result.cpu_seconds])

    @property
    def speedup(self) -> RepeatSpread | None:
        """Seconds of no cache over its own."""
        return _ratios(self.result.none_seconds, self.result.seconds)

    @property
    def cpu_speedup(self) -> RepeatSpread | None:
        """The same of processor seconds."""
        return _ratios(self.result.none_cpu_seconds, self.result.cpu_seconds)

    @property
    def flops_saved(self) -> float:
        """Operations of no cache over its own."""
        return self.result.none_flops / self.result.flops

    @property
    def flops_share(self) -> float:
        """Share of the operations of no cache that are saved: 0 for no cache itself."""
        return 1 - self.result.flops / self.result.none_flops

    @property
    def roofline(self) -> RepeatSpread | None:
        """Seconds over what the machine's rates allow: 1 is as fast as can be, and more is slower."""
        return spread_of([s / self.result.bound_seconds for s in self.result.seconds])

    @property
    def attained(self) -> RepeatSpread | None:
        """What the machine's rates allow over the seconds, in percent: 100 is as fast as can be."""
        return spread_of([100 * self.result.bound_seconds / s for s in self.result.seconds])

    @property
    def joules_per_token(self) -> RepeatSpread | None:
        """None where the machine reports no energy, or nothing was generated."""
        if not self.result.joules or not self.result.new_tokens:
            return None
        return spread_of([j / self.result.new_tokens for j in self.result.joules])

    @property
    def gap(self) -> RepeatSpread | None:
        """How many times longer a position takes than an autoregressive model's token. Where the text may end early,
        a token up to there; else any position of the canvas, for that is what was computed."""
        made = self.result.new_tokens if self.cell.stop_at_eos else self.cell.gen * self.cell.batch
        if self.result.ar_seconds is None or self.result.ar_tokens is None or not made:
            return None
        pairs = zip(self.result.seconds, self.result.ar_seconds, strict=True)
        return spread_of([(own / made) / (ar / self.result.ar_tokens) for own, ar in pairs])

    @property
    def figures(self) -> dict[str, Any]:
        """All of the above by name."""
        spreads = ("tokens_per_second", "seconds_per_step", "cpu_per_step", "speedup", "cpu_speedup", "roofline",
                   "joules_per_token", "gap")  # fmt: skip
        found: dict[str, Any] = {"flops_saved": self.flops_saved}
        for name in spreads:
            spread: RepeatSpread | None = getattr(self, name)
            found[name] = None if spread is None else asdict(spread)
        return found

    @property
    def record(self) -> dict[str, Any]:
        """Everything, as it is written to a file."""
        return {
            "settings": self.cell.record,
            "cache": self.spec,
            "environment": self.environment,
            "measured": asdict(self.result),
            "figures": self.figures,
        }

    @classmethod
    def read(cls, record: dict[str, Any]) -> BenchRow:
        """A row as it was written. Raises KeyError and TypeError where it was not written here."""
        cell, result = record["settings"], record["measured"]
        known = {f.name: cell[f.name] for f in fields(Cell) if f.default is MISSING or f.name in cell}
        measured = Result(**{f.name: result[f.name] for f in fields(Result)})
        row = cls(Cell(**known), record["cache"], record["environment"], measured)
        _ = row.key, row.figures
        return row


def read_rows(path: Path) -> list[BenchRow]:
    """The rows of a file; none where there is no file. A last line that was cut off does not count.

    Raises SettingError for a file that holds something else.
    """
    if not path.exists():
        return []
    rows = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(LineFile(file).lines(), 1):
                rows.append(_row(path, number, line))
    except OSError as error:
        raise SettingError(f"file={str(path)!r} cannot be read ({error.strerror or error}); give another") from None
    return rows


def _row(path: Path, number: int, line: bytes) -> BenchRow:
    try:
        return BenchRow.read(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        raise SettingError(
            f"file={str(path)!r}: line {number} is not a row of `dkv bench`; give another file, or remove the line"
        ) from None


def append_rows(path: Path, rows: Sequence[BenchRow]) -> None:
    """Add rows, all in one write, and see to it that they are on the disk. A cut-off last line is dropped before.

    Raises SettingError where the file cannot be written.
    """
    try:
        with open_alone("out", path, "give another") as file:
            lines = LineFile(file)
            lines.drop_cut_line()
            lines.append(row.record for row in rows)
            lines.sync()
    except OSError as error:
        raise SettingError(f"out={str(path)!r} cannot be written ({error.strerror or error}); give another") from None
