"""Layers compiled by `torch.compile`: the small operations between matrix products become one pass over the rows.

What is compiled is one layer under its rule, and all layers of a model run it: its graph is built once however many
they are. A whole forward as one graph was a little faster and took ten times as long to build; single parts of a layer
were slower than no compiling at all where few rows are carried (docs/speed.md).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from dkv.accel.compile_report import CompileReport
from dkv.core.kv_cache import LayerCache
from dkv.core.layer_rules import RotaryPhase
from dkv.core.packing import PackedRows, RowSelection
from dkv.layers.parts import has_tiles
from dkv.layers.transformer import Rule, TransformerBlock

__all__ = ["Compiled"]

_SHAPES = 16
"""Graphs of one kind of call: numbers of rows, slots and sequences become variables once they have changed, so that a
few graphs serve them all."""


class Compiled:
    """Runs layers compiled, for `Transformer.run`. report: what was built, and why not; backend: of
    `torch.compile`.

    Kinds of calls (by rule, and by what of `PackedRows` is there) are compiled each by itself when first met. One that
    cannot be, for want of a C++ compiler or for what its rule does, runs as ever from then on, and `report.note` says
    why. So does a call with sequences that attend alone: their rows are numbers of the host's, new ones at every step.
    """

    def __init__(self, report: CompileReport, backend: str = "inductor") -> None:
        self._backend, self.report = backend, report
        self._runs: dict[Hashable, Callable[..., Tensor]] = {}
        self._broken = False  # the compiler never built anything: the next kind need not spend seconds on its failure

    def __call__(
        self,
        rule: Rule,
        blocks: Sequence[TransformerBlock],
        x: Tensor,
        at: PackedRows,
        turn: RotaryPhase,
        memories: Sequence[LayerCache],
    ) -> Tensor:
        """Layers under one rule: x [N, C] of the carried rows to x [N, C]."""
        for block, memory in zip(blocks, memories, strict=True):
            x = self._layer(rule, block, x, at, turn, memory)
        return x

    def _layer(
        self, rule: Rule, block: TransformerBlock, x: Tensor, at: PackedRows, turn: RotaryPhase, memory: LayerCache
    ) -> Tensor:
        kind = _kind(rule, at)
        if self._broken or at.uneven or self._runs.get(kind) is _plain:
            return _plain(rule, block, x, at, turn, memory)
        began, before = time.perf_counter(), self.report.graphs
        try:
            if kind not in self._runs:
                self._runs[kind] = self._prepared()
            return self._runs[kind](rule, block, x, at, turn, memory)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the compiler's own come in many classes, and arise before anything has run
            self._runs[kind] = _plain
            self.report.refuse(error)
            return _plain(rule, block, x, at, turn, memory)
        finally:
            if self.report.graphs > before:
                self.report.seconds += time.perf_counter() - began

    def _prepared(self) -> Callable[..., Tensor]:
        # Marked here and not by a decorator: that would import the whole compiler into every process.
        torch.compiler.assume_constant_result(has_tiles)  # type: ignore[no-untyped-call]
        # A limit for each kind, whatever the others come to. (torch's own types leave these two arguments out.)
        limits: dict[str, Any] = {"recompile_limit": _SHAPES, "isolate_recompiles": True}
        run: Callable[..., Tensor] = torch.compile(_plain, fullgraph=True, backend=self._build, **limits)
        return run

    def _build(self, graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
        from torch._dynamo.backends.registry import lookup_backend

        self._broken = self.report.graphs == 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's compiler imports what torch deprecates
            run = lookup_backend(self._backend)(graph, list(inputs))
        self._broken = False
        self.report.graphs += 1
        return run


def _plain(
    rule: Rule, block: TransformerBlock, x: Tensor, at: PackedRows, turn: RotaryPhase, memory: LayerCache
) -> Tensor:
    return rule(block, x, at, turn, memory)


def _kind(rule: Rule, at: PackedRows) -> Hashable:
    """What decides the operations of a layer, numbers aside."""
    narrow = None if at.selection is None else _narrow_kind(at.selection)
    return rule, at.whole, at.mask is None, at.visible, at.grouping.group is None, narrow


def _narrow_kind(narrow: RowSelection) -> Hashable:
    return narrow.frozen is None, narrow.real is None, narrow.grouping.group is None
