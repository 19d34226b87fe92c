"""An engine that several ranks step together: the first decides what joins and what leaves, the others replay it.

Before each step the first rank tells what was added and cancelled since the last one. An engine's state is a function
of these commands and of its steps, so all ranks stay at the same state, and their forwards meet.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist

from dkv.distributed.group import lost_ranks
from dkv.engine.sequence import Request, Status, Update
from dkv.errors import SettingError

__all__ = ["Leader", "Stepped", "Wire", "follow", "in_lockstep"]

T = TypeVar("T")

Command = tuple[int, "Request | None"]
"""A request id, and the request that was added under it; None = it was cancelled."""

_FOR_GOOD = timedelta(days=3650)
_END = -1


class Stepped(Protocol):
    """What is asked of an engine (`dkv.engine.Engine`)."""

    def add(self, request: Request) -> int:
        """Let a request in: its id."""
        ...

    def step(self) -> list[Update]:
        """One step of all active requests."""
        ...

    def cancel(self, request_id: int) -> bool:
        """Drop a request; whether it was there."""
        ...

    def release_memory(self) -> None:
        """Give free memory back to the system."""
        ...

    def status(self) -> Status:
        """Counts."""
        ...


class Wire:
    """From the first rank to all others, in a process group of its own: it may be silent for as long as nobody asks
    for anything. Made on every rank at the same time."""

    def __init__(self) -> None:
        self.rank, self._ranks = dist.get_rank(), dist.get_world_size()
        self._group = dist.new_group(backend="gloo", timeout=_FOR_GOOD)

    def tell(self, commands: Sequence[Command] | None) -> None:
        """Called by the first rank: what to replay before the next step; None = there is none. Raises RankError."""
        payload = pickle.dumps(commands) if commands else b""
        self._cast(torch.tensor([_END if commands is None else len(payload)]))
        if payload:
            self._cast(torch.frombuffer(bytearray(payload), dtype=torch.uint8))

    def hear(self) -> Sequence[Command] | None:
        """Called by the others: what was told. Raises RankError."""
        size = int(self._cast(torch.zeros(1, dtype=torch.int64)))
        if size <= 0:
            return None if size == _END else ()
        payload = self._cast(torch.zeros(size, dtype=torch.uint8))
        commands: list[Command] = pickle.loads(bytes(payload.tolist()))  # noqa: S301 - from the first rank
        return commands

    def _cast(self, data: torch.Tensor) -> torch.Tensor:
        with lost_ranks(self._ranks):
            dist.broadcast(data, src=0, group=self._group)
        return data


class Leader:
    """The first rank's engine, with an engine's own methods; what it is told, the others are told at its next step."""

    def __init__(self, engine: Stepped, wire: Wire) -> None:
        self._engine, self._wire = engine, wire
        self._commands: list[Command] = []

    def add(self, request: Request) -> int:
        """As the engine's; a request that it refuses is never told. Raises SettingError for one that cannot be sent."""
        try:
            pickle.loads(pickle.dumps(request))  # noqa: S301 - our own
        except Exception as error:  # whatever another package's object raises
            raise SettingError(
                f"cache or decoder: the request cannot be sent to the other ranks ({type(error).__name__}); use a spec"
            ) from None
        request_id = self._engine.add(request)
        self._commands.append((request_id, request))
        return request_id

    def cancel(self, request_id: int) -> bool:
        """As the engine's."""
        found = self._engine.cancel(request_id)
        if found:
            self._commands.append((request_id, None))
        return found

    def step(self) -> list[Update]:
        """Tell, then step, as all others do now. Raises RankError."""
        commands, self._commands = self._commands, []
        self._wire.tell(commands)
        return self._engine.step()

    def release_memory(self) -> None:
        """As the engine's, of this rank."""
        self._engine.release_memory()

    def status(self) -> Status:
        """As the engine's: of this rank, whose memory is as large as every other's."""
        return self._engine.status()


def follow(engine: Stepped, wire: Wire) -> None:
    """Replay what the first rank does, until it says that it has ended. Raises RankError."""
    own: dict[int, int] = {}
    while (commands := wire.hear()) is not None:
        for request_id, request in commands:
            if request is not None:
                own[request_id] = engine.add(request)
            else:
                engine.cancel(own[request_id])
        engine.step()


def in_lockstep(engine: Stepped, run: Callable[[Leader], T]) -> T | None:
    """On the first rank, run(leader), and its result; on all others follow it to its end. Raises RankError."""
    wire = Wire()
    if wire.rank:
        follow(engine, wire)
        return None
    result = run(Leader(engine, wire))
    wire.tell(None)
    return result
