"""Lines join an engine as others leave it, never more than are wanted, and each gets its own answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

import dkv
from dkv.core.policy import Plan, Step
from dkv.engine import Engine, Request
from dkv.errors import SettingError
from dkv.jobs.job_line import Asking
from dkv.jobs.local_runner import answers, engine_for
from dkv.jobs.source import SourceLine


@dataclass
class Slow:
    """An engine that finishes the newest of its requests at every second step, with its prompt as the answer."""

    generation: dkv.Generation
    room: int = 1 << 30

    def __post_init__(self) -> None:
        self.held: dict[int, Request] = {}
        self.tickets, self.steps, self.most = 0, 0, 0

    def add(self, request: Request) -> int:
        if request.settings.gen_length > self.room:
            raise SettingError("gen_length: could never fit")
        self.tickets += 1
        self.held[self.tickets] = request
        self.most = max(self.most, len(self.held))
        return self.tickets

    def step(self) -> list[Any]:
        self.steps += 1
        if not self.held or self.steps % 2:
            return []
        ticket, request = self.held.popitem()
        made = replace(self.generation, prompt_ids=list(request.prompt), seed=request.seed)
        return [Update(ticket, None if ticket % 3 else made), *([Update(ticket, made)] if ticket % 3 else [])]


@dataclass(frozen=True)
class Update:
    request_id: int
    generation: dkv.Generation | None
    error: Exception | None = None


@pytest.fixture(scope="module")
def generation(lm: dkv.DiffusionLM) -> dkv.Generation:
    return lm.generate([1], gen_length=1, seed=0)[0]


def counted(lines: list[SourceLine], engine: Slow, ahead: int) -> Iterator[SourceLine]:
    for line in lines:
        assert len(engine.held) <= ahead
        yield line


def test_each_line_gets_its_answer_and_the_engine_never_more_than_wanted(
    lm: dkv.DiffusionLM, generation: dkv.Generation
) -> None:
    lines = [SourceLine(n, json.dumps({"prompt": [n, n], "id": f"n{n}"}).encode()) for n in range(1, 21)]
    engine = Slow(generation)
    made = answers(cast(Engine, engine), Asking(lm, {"gen_length": 4}, 0), counted(lines, engine, 6), ahead=6)
    found = [record for records in made for record in records]
    assert engine.most == 6
    assert sorted(record["line"] for record in found) == list(range(1, 21))
    assert all(record["id"] == f"n{record['line']}" for record in found)
    assert len({record["seed"] for record in found}) == 20


BAD = [b'{"prompt": [1]}', b"x", b'{"prompt": [1], "id": "big", "gen_length": 64}', b'{"prompt": [], "id": "e"}']


def test_a_bad_line_stops_the_job_or_is_answered_by_its_error(lm: dkv.DiffusionLM, generation: dkv.Generation) -> None:
    lines = [SourceLine(number, text) for number, text in enumerate(BAD, 1)]
    asking, engine = Asking(lm, {"gen_length": 4}, 0), Slow(generation, room=32)
    with pytest.raises(SettingError, match="input: line 2: not JSON"):
        list(answers(cast(Engine, engine), asking, lines, ahead=2))
    made = answers(cast(Engine, Slow(generation, room=32)), asking, lines, ahead=2, skip_bad=True)
    found = {record["line"]: record for records in made for record in records}
    assert "error" not in found[1]
    assert [found[n]["id"] for n in (2, 3, 4)] == [2, "big", "e"]
    assert found[2]["error"].startswith("not JSON")
    assert found[3]["error"] == "gen_length: could never fit"
    assert "empty" in found[4]["error"]


class Breaks:
    """A policy that breaks where a prompt begins with 9."""

    def plan(self, step: Step) -> Plan:
        if bool((step.canvas.tokens[:, 0] == 9).any()):
            raise ValueError("nine")
        return Plan(step.canvas.live)


def test_a_line_that_fails_on_the_way_is_answered_by_its_error_and_stops_nothing(lm: dkv.DiffusionLM) -> None:
    lines = [SourceLine(n, json.dumps({"prompt": [n, n]}).encode()) for n in range(7, 12)]
    asking = Asking(lm, {"gen_length": 4, "cache": Breaks()}, 0)
    made = answers(engine_for(lm, 2), asking, lines, ahead=4)
    found = {record["line"]: record for records in made for record in records}
    assert sorted(found) == list(range(7, 12))
    assert [number for number, record in found.items() if "error" in record] == [9]
    assert found[9]["code"] == "request_failed"
    assert "ValueError: nine" in found[9]["error"]
    assert found[8]["text"] == lm.generate([[8, 8]], gen_length=4, seed=found[8]["seed"], cache="none")[0].text


def test_nothing_but_bad_lines_never_piles_up(lm: dkv.DiffusionLM, generation: dkv.Generation) -> None:
    lines = (SourceLine(number, b"x") for number in range(1, 1001))
    made = answers(cast(Engine, Slow(generation)), Asking(lm, {}, 0), lines, ahead=8, skip_bad=True)
    sizes = [len(records) for records in made]
    assert sum(sizes) == 1000
    assert max(sizes) <= 8
