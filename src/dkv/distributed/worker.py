"""The program of one rank that `launch` started: meet the others, do what was asked, tell the outcome."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection

from dkv.distributed.launch import ASKS, RankOutcome, RankTask

__all__ = ["main"]


def main() -> None:
    """Run as `python -m dkv.distributed.worker FD`, FD a pipe to `launch`."""
    link = Connection(int(sys.argv[1]))
    sys.path[:] = link.recv()
    task: RankTask = link.recv()
    threading.Thread(target=_end_with, args=(link,), daemon=True).start()
    link.send(_portable(_outcome(task), task.rank))
    # Not through the interpreter's end: the group's threads may still talk to ranks that are gone.
    os._exit(0)


def _end_with(link: Connection) -> None:
    """End once whoever started us is gone: nothing else ever comes through the pipe."""
    try:
        link.poll(None)
    finally:
        os._exit(1)


def _outcome(task: RankTask) -> RankOutcome:
    try:
        if task.rank == 0:  # the others never hear of it: the first decides when all end
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKS)
        _meet(task)
        work, arguments = pickle.loads(task.pickled)  # noqa: S301 - from our own parent
        value = work(*arguments)
        sys.stdout.flush()  # before anybody knows that we are done, and may kill us
        return RankOutcome(None if task.rank else value)
    except BaseException as error:
        error.add_note(f"on rank {task.rank}:\n{traceback.format_exc()}")
        return RankOutcome(error=error)


def _meet(task: RankTask) -> None:
    """Join the process group, over the loopback interface: all ranks are on this machine."""
    import socket

    names = [name for _, name in socket.if_nameindex()]
    loopback = next((name for name in ("lo", "lo0") if name in names), None)
    for backend in ("GLOO", "NCCL") if loopback else ():
        os.environ.setdefault(f"{backend}_SOCKET_IFNAME", str(loopback))
    rank, ranks = str(task.rank), str(task.ranks)
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    import torch
    import torch.distributed as dist

    from dkv.distributed.group import PATIENCE
    from dkv.distributed.group import backend as carrier

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // task.ranks))
    if torch.cuda.is_available() and task.rank < torch.cuda.device_count():
        torch.cuda.set_device(task.rank)
    store = f"file://{task.rendezvous}"
    dist.init_process_group(carrier(), init_method=store, rank=task.rank, world_size=task.ranks, timeout=PATIENCE)


def _portable(outcome: RankOutcome, rank: int) -> RankOutcome:
    """The same, or why it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(outcome))  # noqa: S301 - our own
    except Exception:
        what = "its result" if outcome.error is None else f"{type(outcome.error).__name__}: {outcome.error}"
        return RankOutcome(error=RuntimeError(f"rank {rank}: {what} (could not be sent)"))
    return outcome


if __name__ == "__main__":
    main()
