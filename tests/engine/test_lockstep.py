"""What the first rank adds and cancels, the others replay before the same step."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

import dkv
from dkv.core.policy import Plan, Step
from dkv.distributed.launch import launch
from dkv.engine import Engine, Service, Update
from dkv.engine.lockstep import Leader, in_lockstep
from dkv.errors import BusyError, RankError, SettingError
from tests.support.ranks import everywhere


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

    def release_memory(self) -> None:
        pass

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


REQUESTS: list[dict[str, Any]] = [
    {"prompt": [5, 80, 33, 7], "gen_length": 16, "seed": 1},
    {"prompt": [9, 1, 44, 120, 66, 2, 13], "gen_length": 24, "cache": "dllm-cache:kp=5,kr=3,rho=0.4", "seed": 2},
    {"prompt": [70, 71], "gen_length": 12, "cache": "none", "temperature": 0.9, "top_k": 20, "seed": 3},
    {"prompt": [8] * 9, "gen_length": 16, "cfg_scale": 1.0, "cache": "dkv-decode:refresh=3", "seed": 4},
    {"prompt": [4, 3, 2], "gen_length": 32, "block_length": 8, "cache": "fast-dual", "seed": 5},
]


def served(directory: str) -> dict[str, Any]:
    """A server's life on two ranks: requests that join and leave between steps, one refused, one cancelled; then the
    same through a Service."""
    lm = dkv.load(directory, device="cpu", dtype="float32", audit=True, tensor_parallel=2)
    engine = Engine(lm, memory=1 << 20, active=3, waiting=3)

    def by_hand(leader: Leader) -> dict[int, list[int]]:
        one, two, three, four, five = (lm.request(stop_at_eos=False, **more) for more in REQUESTS)
        for request in (one, two, three):
            leader.add(request)
        with pytest.raises(BusyError):
            leader.add(four)
        results = finished(leader.step())
        dropped, *_ = leader.add(one), leader.add(four), leader.add(five)
        while leader.status().active or leader.status().waiting:
            new = finished(leader.step())
            if new and not results:
                assert leader.cancel(dropped)
            results |= new
        return results

    def by_service(leader: Leader) -> list[Any]:
        async def ask() -> list[Any]:
            async with Service(leader) as service:
                requests = [lm.request(stop_at_eos=False, **more) for more in REQUESTS]
                answers = await asyncio.gather(*(service.generate(request) for request in requests))
                return [answer.token_ids for answer in answers]

        return asyncio.run(ask())

    found: dict[str, Any] = {"by hand": in_lockstep(engine, by_hand)}
    found["by service"] = in_lockstep(Engine(lm, memory=1 << 20), by_service)
    found["status"] = everywhere(replace(engine.status(), step_seconds=0.0))
    return found


def finished(updates: list[Update]) -> dict[int, list[int]]:
    """The response ids of the requests that ended with this step, by ticket."""
    return {u.request_id: u.generation.token_ids for u in updates if u.generation is not None}


def all_of_it(directories: dict[str, str]) -> dict[str, Any]:
    """What the tests below look at, by ranks that are started once."""
    return {
        "served": served(directories["dream"]),
        "failing": fails_on_one(directories["llada"]),
        "replayed": both_ranks(),
    }


@pytest.fixture(scope="module")
def ranks(directories: dict[str, str]) -> dict[str, Any]:
    return launch(2, all_of_it, directories)


def test_an_engine_on_two_ranks_serves_as_one(directories: dict[str, str], ranks: dict[str, Any]) -> None:
    lm = dkv.load(directories["dream"], device="cpu", dtype="float32")
    alone = []
    for more in REQUESTS:
        arguments = {name: value for name, value in more.items() if name != "prompt"}
        alone.append(lm.generate(more["prompt"], stop_at_eos=False, **arguments)[0].token_ids)
    found = ranks["served"]
    assert found["by hand"] == {0: alone[0], 1: alone[1], 2: alone[2], 4: alone[3], 5: alone[4]}
    assert found["by service"] == alone
    first, second = found["status"]
    assert first == second
    assert (first.requests_finished, first.requests_cancelled, first.memory_used) == (5, 1, 0)


class Partial:
    """A policy of another package, which fails on the second rank alone, after two forwards."""

    def plan(self, step: Step) -> Plan:
        import torch.distributed as dist

        if dist.get_rank() == 1 and bool((step.num_forwards == 2).any()):
            raise ValueError("here only")
        return Plan(step.canvas.live)


def fails_on_one(directory: str) -> dict[str, Any]:
    """A request whose policy fails on one rank, beside one that goes on; and one that no other rank could be told."""
    lm = dkv.load(directory, device="cpu", dtype="float32", tensor_parallel=2)
    engine = Engine(lm)

    def run(leader: Leader) -> dict[str, Any]:
        with pytest.raises(SettingError, match="cannot be sent to the other ranks"):
            leader.add(lm.request([1], gen_length=4, cache=type("Local", (Partial,), {})()))
        leader.add(lm.request([1, 2], gen_length=8, cache=Partial(), stop_at_eos=False))
        leader.add(lm.request([3], gen_length=8, cache="none", seed=1, stop_at_eos=False))
        errors, results = dict[int, str](), dict[int, list[int]]()
        while leader.status().active or leader.status().waiting or not results:
            for update in leader.step():
                if update.error is not None:
                    errors[update.request_id] = str(update.error)
                if update.generation is not None:
                    results[update.request_id] = update.generation.token_ids
        return {"errors": errors, "results": results}

    found = in_lockstep(engine, run)
    return {"found": found, "status": everywhere(replace(engine.status(), step_seconds=0.0))}


def test_what_fails_on_one_rank_is_dropped_on_all(directories: dict[str, str], ranks: dict[str, Any]) -> None:
    lm = dkv.load(directories["llada"], device="cpu", dtype="float32")
    alone = lm.generate([[3]], gen_length=8, cache="none", seed=1, stop_at_eos=False)[0].token_ids
    made = ranks["failing"]
    assert list(made["found"]["errors"]) == [0]
    assert "failed on another rank" in made["found"]["errors"][0]
    assert made["found"]["results"] == {1: alone}
    first, second = made["status"]
    assert first == second
    assert first.requests_failed == 1


def test_followers_replay(ranks: dict[str, Any]) -> None:
    result, (first, second) = ranks["replayed"]
    assert result == [0, 1, 3, True, 2, False, 6, 7, 3]
    long = "x" * 100_000
    assert first == [("add", "one"), ("add", "two"), "step", ("cancel", 0), ("add", long), "step", "step"]
    assert second == first


def test_the_end_of_one_is_the_end_of_all() -> None:
    with pytest.raises(ValueError, match="the server is broken"):
        launch(2, leader_fails)
    with pytest.raises(RankError):
        launch(2, follower_fails)
