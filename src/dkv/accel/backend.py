"""How a model is run on this machine: the one seam between `dkv.load` and the faster ways of this package.

A backend has what a network is run with (operations on logits, a runner of layers, recorded forwards), and says what
preparing these took.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from dkv.accel.compile_report import CompileReport
from dkv.accel.cpu_ops import CellRows, RowChunks
from dkv.accel.cuda_graphs import CudaCapture, Graphed
from dkv.accel.inductor import Compiled
from dkv.accel.malloc import give_back, keep_freed
from dkv.accel.native_logits import native_logit_ops
from dkv.core.model import Model
from dkv.core.packing import Bucket
from dkv.layers.transformer import Transformer, bucket_for

__all__ = ["Backend", "choose_backend", "plain_backend"]


@dataclass(frozen=True)
class Backend:
    """A network, and how it is run."""

    network: Model
    """The network itself."""
    model: Model
    """The network, with what records its forwards."""
    bucket: Bucket
    """How row counts are rounded up."""
    reports: dict[str, CompileReport] = field(default_factory=dict)
    """What preparing faster forwards took so far, by the argument of `load` that asked for them."""

    @property
    def compiled(self) -> bool:
        """Whether `load` was asked to compile."""
        return "compile" in self.reports

    def release_memory(self) -> None:
        """Give free memory of this process back to the system, where the C library can."""
        give_back()


def plain_backend(network: Model) -> Backend:
    """A network as it is."""
    return Backend(network, network, bucket_for(network.device, network.dtype))


def choose_backend(
    network: Transformer,
    device: torch.device,
    *,
    compile: bool = False,  # noqa: A002 - as `load` has it
    cuda_graphs: bool = False,
) -> Backend:
    """What `load` runs a network with. compile: on a CPU the choice of tokens is built in C, and the process keeps
    what it frees; elsewhere torch.compile builds layers when they are first needed. cuda_graphs: forwards are recorded.
    """
    reports = {name: CompileReport() for name, on in (("compile", compile), ("cuda_graphs", cuda_graphs)) if on}
    if device.type == "cpu":
        logit_ops = native_logit_ops(reports["compile"]) if compile else RowChunks()
        network = replace(network, logit_ops=logit_ops, cache_ops=CellRows())
        if compile:
            keep_freed()
    elif compile:
        network = replace(network, run=Compiled(reports["compile"]))
    if not cuda_graphs:
        return replace(plain_backend(network), reports=reports)
    graphed = Graphed(network, CudaCapture(), reports["cuda_graphs"])
    return Backend(network, graphed, graphed.bucket, reports)
