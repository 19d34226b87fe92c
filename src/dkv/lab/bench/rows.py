"""One row of a benchmark: its settings, what it was measured with, what came out, and the figures read from that."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from dkv.lab.bench.grid import Cell

__all__ = ["BenchRow", "RepeatSpread", "Result", "key_of", "spread_of"]


def key_of(cell: Cell, versions: Mapping[str, str]) -> str:
    """What makes a row the same row: settings and versions."""
    return json.dumps([cell.key, versions], sort_keys=True)


@dataclass(frozen=True)
class RepeatSpread:
    """The median of some repeats, and the lowest and highest of them."""

    median: float
    low: float
    high: float


def spread_of(values: Sequence[float]) -> RepeatSpread | None:
    """None of nothing."""
    return RepeatSpread(statistics.median(values), min(values), max(values)) if values else None


@dataclass(frozen=True)
class Result:
    """What was measured. All counts are of the whole batch.

    seconds, cpu_seconds, joules: of each repeat, wall clock, processor time of this process, and energy of the machine
    (None where it is not reported); none_*, ar_*: those of no cache and of the autoregressive run, repeat by repeat
    beside them (ar_* None where it did not run). new_tokens: up to the end-of-text; forwards: steps with a forward;
    rows_computed: rows through the MLP, averaged over layers; rows_total: what no cache computes in as many forwards;
    flops, none_flops: of all forwards; peak_bytes: held at the highest beside the weights, None where unknown;
    cache_bytes: keys, values and features; weight_bytes; agreement: share of tokens equal to no cache's, None of the
    autoregressive run; bound_seconds: what the machine's rates allow.
    """

    seconds: list[float]
    cpu_seconds: list[float]
    joules: list[float] | None
    none_seconds: list[float]
    none_cpu_seconds: list[float]
    ar_seconds: list[float] | None
    ar_tokens: int | None
    new_tokens: int
    forwards: int
    rows_computed: float
    rows_total: int
    flops: int
    none_flops: int
    peak_bytes: int | None
    cache_bytes: int
    weight_bytes: int
    agreement: float | None
    bound_seconds: float


@dataclass(frozen=True)
class BenchRow:
    """A cell, its cache with every key written out, the versions and the machine it was measured with, its result."""

    cell: Cell
    spec: str
    environment: dict[str, Any]
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
        pairs = zip(self.result.none_seconds, self.result.seconds, strict=True)
        return spread_of([none / own for none, own in pairs])

    @property
    def cpu_speedup(self) -> RepeatSpread | None:
        """The same of processor seconds."""
        pairs = zip(self.result.none_cpu_seconds, self.result.cpu_seconds, strict=True)
        return spread_of([none / own for none, own in pairs])

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
        row = cls(
            Cell(
                **{
                    field.name: cell[field.name]
                    for field in fields(Cell)
                    if field.default is MISSING or field.name in cell
                }
            ),
            record["cache"],
            record["environment"],
            Result(**{field.name: result[field.name] for field in fields(Result)}),
        )
        _ = row.key, row.figures
        return row
