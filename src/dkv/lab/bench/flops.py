"""What a forward computes, as row counts, and the floating-point operations of that: a pure function of counts.

Matrix products alone, two operations per multiplication and addition, as torch's FlopCounterMode counts them (a test
compares them). Norms, rotations and the softmax are left out: together they are under 1% of LLaDA-8B's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dkv.core.loop import StepOutput
from dkv.core.model import ModelConfig

__all__ = ["LayerWork", "Work", "flops", "head_flops", "part_flops", "work_of"]


@dataclass(frozen=True)
class LayerWork:
    """What each of `layers` layers that compute alike computes."""

    layers: int
    values: int  # rows whose values are projected
    rows: int  # those that pass through all else
    pairs: int  # of a query row and a key that it attends to


@dataclass(frozen=True)
class Work:
    """One forward of a batch."""

    parts: tuple[LayerWork, ...]  # its layers, from below
    reads: int  # rows that the head reads, those of guides included

    @property
    def rows(self) -> int:
        """Rows through an MLP, summed over layers."""
        return sum(part.layers * part.rows for part in self.parts)


def work_of(tick: StepOutput, lengths: Sequence[int], layers: int) -> Work:
    """What a step computed, of sequences of these lengths (a row attends to its whole sequence) in so many layers."""
    carried, picked = sum(tick.counts), sum(tick.picked)

    def pairs(rows: Iterable[int]) -> int:
        return sum(number * length for number, length in zip(rows, lengths, strict=True))

    parts = []
    for rule, count in ((tick.rules.first, 1), (tick.rules.rest, layers - 1)):
        if rule is None:
            parts.append(LayerWork(count, carried, carried, pairs(tick.counts)))
        else:
            parts.append(LayerWork(count, rule.projected(carried, picked), picked, pairs(tick.picked)))
    return Work(tuple(parts), tick.head_rows)


def flops(config: ModelConfig, work: Work) -> int:
    """Floating-point operations of a forward."""
    return sum(part.layers * part_flops(config, part) for part in work.parts) + head_flops(config, work.reads)


def part_flops(config: ModelConfig, part: LayerWork) -> int:
    """Those of one layer: the projections, attention's two products, and the gated MLP's three."""
    c = config
    inner, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
    row = (inner + keys) * c.width + inner * c.width + 3 * c.width * c.mlp_width
    return 2 * (part.values * keys * c.width + part.rows * row + 2 * part.pairs * inner)


def head_flops(config: ModelConfig, reads: int) -> int:
    """Those of the head on so many rows."""
    return 2 * reads * config.width * config.vocab
