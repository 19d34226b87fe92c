"""What the first rank adds and cancels, the others replay before the same step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from dkv.errors import RankError, SettingError
from dkv.parallel.launch import launch
from dkv.parallel.lockstep import Leader, in_lockstep
from tests.parallel.ranks import everywhere


@dataclass
class Diary:
    """An engine that writes down what it is told. Tickets start at `first`."""

    first: int
    told: list[Any] = field(default_factory=list)
    tickets: int = 0

    def add(self, request: Any) -> int:
        if request == "too much":
            raise SettingError("full")
        self.tickets += 1
        self.told.append(("add", request))
        return self.first + self.tickets - 1

    def cancel(self, ticket: int) -> bool:
        if not self.first <= ticket < self.first + self.tickets:
            return False
        self.told.append(("cancel", ticket - self.first))
        return True

    def step(self) -> list[Any]:
        self.told.append("step")
        return [len(self.told)]

    def status(self) -> Any:
        return self.tickets


def conduct(leader: Leader) -> list[Any]:
    """Every kind of command, and steps without any."""
    results: list[Any] = [leader.add("one"), leader.add("two")]  # type: ignore[arg-type]
    results += leader.step()
    results.append(leader.cancel(results[0]))
    with pytest.raises(SettingError):
        leader.add("too much")  # type: ignore[arg-type]
    results += [leader.add("x" * 100_000), leader.cancel(99)]  # type: ignore[arg-type]
    results += leader.step() + leader.step()
    return [*results, leader.status()]


def both_ranks() -> tuple[Any, list[list[Any]]]:
    import torch.distributed as dist

    diary = Diary(first=10 * dist.get_rank())
    result = in_lockstep(diary, conduct)
    return result, everywhere(diary.told)


def leader_fails() -> None:
    def run(leader: Leader) -> None:
        leader.step()
        raise ValueError("the server is broken")

    in_lockstep(Diary(0), run)


def follower_fails() -> None:
    import torch.distributed as dist

    class Broken(Diary):
        def step(self) -> list[Any]:
            if dist.get_rank() == 1:
                raise RankError("lost")
            return []

    def run(leader: Leader) -> None:
        while True:
            leader.step()

    in_lockstep(Broken(0), run)


def test_followers_replay() -> None:
    result, (first, second) = launch(2, both_ranks)
    assert result == [0, 1, 3, True, 2, False, 6, 7, 3]
    long = "x" * 100_000
    assert first == [("add", "one"), ("add", "two"), "step", ("cancel", 0), ("add", long), "step", "step"]
    assert second == first


def test_the_end_of_one_is_the_end_of_all() -> None:
    with pytest.raises(ValueError, match="the server is broken"):
        launch(2, leader_fails)
    with pytest.raises(RankError):
        launch(2, follower_fails)
