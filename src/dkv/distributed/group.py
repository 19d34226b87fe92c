"""The processes (ranks) that hold one model together, and what they say to each other, by `torch.distributed`.

Every rank runs the same program on the same canvas. What decides what happens next, the logits and the drifts by which
rows are picked, is gathered rather than summed: each part is computed on one rank and then the same bits everywhere, so
that ranks cannot come apart, whatever order a backend's sum may have.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dkv.errors import RankError, SettingError

__all__ = ["PATIENCE", "Team", "backend", "join", "lost_ranks", "rank_device"]

T = TypeVar("T")

PATIENCE = timedelta(minutes=10)
"""How long a rank waits for another before it gives up."""
_RENDEZVOUS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Team:
    """This process's place among the ranks of the default process group: rank, of ranks. Every rank must make the same
    calls in the same order. Each raises RankError where another rank is gone."""

    rank: int
    ranks: int

    def sum(self, part: Tensor) -> Tensor:
        """The sum of every rank's tensor, in the place of this rank's."""
        with lost_ranks(self.ranks):
            dist.all_reduce(part)
        return part

    def gather(self, part: Tensor) -> Tensor:
        """Every rank's tensor, [ranks, *shape], the same bits on every rank."""
        whole = torch.empty((self.ranks, *part.shape), dtype=part.dtype, device=part.device)
        with lost_ranks(self.ranks):
            dist.all_gather(list(whole), part.contiguous())
        return whole

    def worst(self, found: int) -> int:
        """The greatest of every rank's number, on every rank."""
        return int(self.gather(torch.tensor([found])).max())

    def share(self, value: T) -> T:
        """Rank 0's value, pickled, on every rank. (torch's own broadcast of objects needs numpy.)"""
        payload = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        size = torch.tensor([payload.numel()])
        with lost_ranks(self.ranks):
            dist.broadcast(size, src=0)
            payload = torch.zeros(int(size), dtype=torch.uint8) if self.rank else payload
            dist.broadcast(payload, src=0)
        if self.rank == 0:
            return value
        shared: T = pickle.loads(bytes(payload.tolist()))  # noqa: S301 - from the first rank
        return shared

    def after_first(self, call: Callable[[], T]) -> T:
        """`call`, on rank 0 before all others: for what it leaves on the disk for them."""
        if self.rank:
            self.share(None)
            return call()
        result = call()
        self.share(None)
        return result


def join(ranks: int) -> Team:
    """This process as one of `ranks`: of the process group that there is, else of the one that the environment
    describes, as torchrun sets it. Raises SettingError."""
    if not dist.is_initialized():
        missing = [name for name in _RENDEZVOUS if name not in os.environ]
        if missing:
            raise SettingError(
                f"tensor_parallel={ranks} needs {ranks} processes and {missing[0]} is not set; start this program with "
                f"`torchrun --nproc-per-node {ranks}`, or use `dkv generate --tensor-parallel {ranks}`"
            )
        dist.init_process_group(backend(), timeout=PATIENCE)
    if (found := dist.get_world_size()) != ranks:
        raise SettingError(f"tensor_parallel={ranks} must be the number of processes, {found}; start {ranks}")
    return Team(dist.get_rank(), ranks)


def backend() -> str:
    """What carries tensors of each kind of device here."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def rank_device(device: str, ranks: int) -> str:
    """The device of this rank where `load` is given `device`: with "auto" and "cuda" each has a GPU of its own. Raises
    SettingError where there are too few."""
    if device.startswith("cuda:"):
        raise SettingError(f"device={device!r} is one device, and tensor_parallel={ranks} needs {ranks}; use 'cuda'")
    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    here, count = int(os.environ.get("LOCAL_WORLD_SIZE", ranks)), torch.cuda.device_count()
    if count < here:
        raise SettingError(f"tensor_parallel={ranks} needs {here} GPUs here and there are {count}; or use device='cpu'")
    return f"cuda:{os.environ.get('LOCAL_RANK') or os.environ.get('RANK', '0')}"


@contextmanager
def lost_ranks(ranks: int) -> Iterator[None]:
    """What a collective raises where a rank is gone, or does not answer, as a RankError."""
    try:
        yield
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise RankError(f"tensor_parallel={ranks}: another rank ended or did not answer ({line[:200]})") from None
