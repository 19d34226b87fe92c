"""Forwards recorded once and replayed: on a GPU as CUDA graphs, which spare the host a launch for every operation.

It knows models, places and memories, and nothing of architectures: any `Model` can be wrapped. Which forwards are alike
is a question of shapes and addresses alone (`dkv.accel.graph_inputs`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from dkv.accel.compile_report import CompileReport
from dkv.accel.graph_cache import Table
from dkv.accel.graph_inputs import address_of, copied, fitted, renew, sheltering, signature
from dkv.core.kv_cache import KVCache
from dkv.core.layer_rules import Rules
from dkv.core.model import Model, ModelConfig, logit_ops_of
from dkv.core.packing import PackedRows
from dkv.core.sampling import LogitOps
from dkv.layers.transformer import sixteenths

__all__ = ["Capture", "CudaCapture", "Graphed"]

_SIZE = 64
_REHEARSALS = 3
"""Runs before a recording, in which libraries choose and load their kernels."""


class Capture(Protocol):
    """Records what a function does on the device."""

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Rehearse `run`, then record it. What is returned does it again on whatever the same addresses hold by then,
        and returns the same tensor each time. Raises whatever a device raises where it cannot."""
        ...


class CudaCapture:
    """CUDA graphs; all share one pool of memory, since no two of them run at once and results are copied out."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Rehearse on a stream of its own, as capturing asks for, then capture."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_REHEARSALS):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            out = run()
        self._pool = self._pool or graph.pool()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


@dataclass(frozen=True)
class _Recorded:
    """A forward that was recorded: its inputs, and how to do it again."""

    tokens: Tensor
    at: PackedRows
    replay: Callable[[], Tensor]

    def __call__(self, tokens: Tensor, at: PackedRows) -> Tensor:
        """Do it with these inputs; the result is the caller's own."""
        renew(self.tokens, tokens)
        renew(self.at, at)
        return self.replay().clone()


class Graphed:
    """A model whose forwards are replayed where that can be; all else is the wrapped one's, `inner`.

    A forward is recorded when one like it (batch, rows, slots, rules, and the very buffers) is met for the second time,
    at most `size` of them; the rehearsals write to the scratch slot only, so that they leave no trace. Forwards that
    cannot be recorded (sequences that attend alone, errors of the device) and those that find the table full run as
    ever; `report` counts. Row counts must come in few sizes for this to pay: `bucket`.
    """

    def __init__(self, inner: Model, capture: Capture, report: CompileReport, size: int = _SIZE) -> None:
        self.inner, self.report = inner, report
        self._capture, self._table = capture, Table[_Recorded](size)

    @property
    def config(self) -> ModelConfig:
        """Its facts."""
        return self.inner.config

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.inner.device

    @property
    def dtype(self) -> torch.dtype:
        """Its weights' dtype."""
        return self.inner.dtype

    @property
    def logit_ops(self) -> LogitOps:
        """How tokens are found from its logits."""
        return logit_ops_of(self.inner)

    def new_kv_cache(self, batch: int, width: int, dtype: torch.dtype | None = None) -> KVCache:
        """A memory for `batch` sequences of `width` slots."""
        return self.inner.new_kv_cache(batch, width, dtype)

    def bucket(self, rows: int) -> int:
        """How row counts are rounded up, so that there are few."""
        return sixteenths(rows)

    def logits(self, x: Tensor) -> Tensor:
        """Head of hidden states [M, C]: [M, V] float32. Never recorded: how many rows are read changes often, and it is
        three operations."""
        return self.inner.logits(x)

    def forward(self, tokens: Tensor, at: PackedRows, memory: KVCache, rules: Rules) -> Tensor:
        """Carry the rows `at`, holding tokens [N], through every layer under its rule: hidden states [N, C]."""
        if at.uneven:
            return self.inner.forward(tokens, at, memory, rules)
        memory.keep(
            rules.buffers, self.config.width
        )  # what a rule keeps must have its address before anything is recorded
        fit = fitted(at, self.bucket)
        key = (tuple(tokens.shape), signature(fit), rules, address_of(memory))
        recorded = self._table.find(key)
        if recorded is None and self._table.worth(key):
            recorded = self._record(tokens, fit, memory, rules)
            if recorded is None:
                self._table.refuse(key)
            else:
                self._table.put(key, recorded)
        return self.inner.forward(tokens, at, memory, rules) if recorded is None else recorded(tokens, fit)

    def _record(self, tokens: Tensor, at: PackedRows, memory: KVCache, rules: Rules) -> _Recorded | None:
        """Record a forward of these shapes; None where that fails."""
        began, own, places = time.perf_counter(), copied(tokens), sheltering(at)
        try:
            # A new PackedRows each time: what is found out about its rows must be found within the recording.
            replay = self._capture(lambda: self.inner.forward(own, replace(places), memory, rules))
        except RuntimeError as error:  # of the device, its memory among them
            self.report.refuse(error)
            return None
        finally:
            self.report.seconds += time.perf_counter() - began
        self.report.graphs += 1
        return _Recorded(own, places, replay)
