"""The server on Ray Serve: a replica that dies under load costs no answer, and nothing hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import dkv
from tests.support.ray_family import descendants, gone

pytest.importorskip("ray")
httpx = pytest.importorskip("httpx")

PROGRAM = """
import sys
from dkv.server import Gate, Limits
from dkv.server.listen import address_of, listen
from dkv.server.ray_serve import Part, deployed
from dkv.server.uvicorn_server import run

if __name__ == "__main__":
    limits = Limits(max_per_key=40)
    gate = Gate(limits)
    part = Part(sys.argv[1], "cpu", "float32", limits=limits, name="m")
    with listen("127.0.0.1", 0) as listening, deployed(part, 2, ["key"], gate) as app:
        print(address_of(listening), flush=True)
        run(app, listening, gate, 5.0, False)
"""


class Served:
    """A server with two replicas, in a process of its own."""

    def __init__(self, model: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(model)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        address = self.process.stdout.readline().strip()
        self.client = httpx.Client(base_url=address, headers={"authorization": "Bearer key"}, timeout=60)

    def replicas(self) -> list[int]:
        return descendants(self.process.pid, "ray::ServeReplica")

    def complete(self, seed: int, tokens: int = 64) -> Any:
        body = {"model": "m", "prompt": f"count to {seed}", "max_tokens": tokens, "seed": seed, "temperature": 1.0}
        return self.client.post("/v1/completions", json=body)

    def stream(self, seed: int) -> tuple[str, list[Any]]:
        """The text of the deltas, and the errors among the events."""
        body = {"model": "m", "prompt": f"count to {seed}", "max_tokens": 64, "seed": seed, "temperature": 1.0}
        text, errors = "", []
        with self.client.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line.removeprefix("data: "))
                    errors += [event["error"]] if "error" in event else []
                    text += "".join(choice["text"] for choice in event.get("choices", []))
        return text, errors

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def end(self) -> None:
        family = descendants(self.process.pid)
        self.client.close()
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        for process in (*family, self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        assert gone(family)


@pytest.fixture(scope="module")
def served(spoken: Path) -> Iterator[Served]:
    server = Served(spoken)
    yield server
    server.end()


@pytest.fixture(scope="module")
def expected(lm: dkv.DiffusionLM) -> dict[int, str]:
    made = lm.generate(
        [f"count to {seed}" for seed in range(24)], gen_length=64, seed=list(range(24)), temperature=1.0, chat=False
    )
    return {seed: generation.text or "" for seed, generation in enumerate(made)}


def until_ready(served: Served, replicas: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        answer = served.client.get("/ready")
        if answer.status_code == 200 and answer.json()["replicas"] == replicas:
            return
        time.sleep(0.2)
    pytest.fail("the replicas did not come back")


def test_the_same_answers_errors_and_counts_as_one_application(served: Served, expected: dict[int, str]) -> None:
    until_ready(served, 2)
    assert served.complete(3).json()["choices"][0]["text"] == expected[3]
    assert served.stream(4) == (expected[4], [])
    assert served.client.get("/v1/models").json()["data"][0]["id"] == "m"
    assert served.client.get("/nope").json()["error"]["code"] == "unknown_url"
    assert served.client.post("/v1/completions", json={"model": "x", "prompt": "a"}).status_code == 404
    assert served.client.get("/v1/models", headers={"authorization": ""}).status_code == 401
    assert served.client.get("/health", headers={"authorization": ""}).status_code == 200
    time.sleep(3)
    assert served.metric("dkv_requests_finished_total") == 2
    assert served.metric("dkv_tokens_total") > 0


def test_a_client_that_leaves_frees_its_place(served: Served) -> None:
    body = {"model": "m", "prompt": "a", "max_tokens": 64, "n": 64}
    with pytest.raises(httpx.ReadTimeout):
        served.client.post("/v1/completions", json=body, timeout=0.3)
    time.sleep(5)
    assert served.metric("dkv_requests_active") == 0
    assert served.metric("dkv_requests_waiting") == 0
    assert served.metric("dkv_requests_cancelled_total") > 0


def test_a_replica_killed_under_load_costs_no_answer(served: Served, expected: dict[int, str]) -> None:
    until_ready(served, 2)
    victim = served.replicas()[0]
    finished = served.metric("dkv_requests_finished_total")
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(served.complete, seed) for seed in range(24)]
        while not any(future.done() for future in asked):
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)
        answers = [future.result(timeout=60) for future in asked]
    assert [answer.status_code for answer in answers] == [200] * 24
    assert [answer.json()["choices"][0]["text"] for answer in answers] == [expected[seed] for seed in range(24)]
    until_ready(served, 2)
    assert served.metric("dkv_requests_finished_total") >= finished  # counts do not fall with the dead


def test_a_stream_cut_by_a_death_ends_with_an_error(served: Served, expected: dict[int, str]) -> None:
    until_ready(served, 2)
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(served.stream, seed) for seed in range(24)]
        while not any(future.done() for future in asked):
            time.sleep(0.01)
        os.kill(served.replicas()[0], signal.SIGKILL)
        ended = [future.result(timeout=60) for future in asked]
    cut = [seed for seed, (_, errors) in enumerate(ended) if errors]
    assert cut, "the killed replica was answering nobody"
    for seed, (text, errors) in enumerate(ended):
        assert expected[seed].startswith(text)
        # One of which all text had come, and not yet its end, is cut too: nobody can tell that no more was to come.
        assert errors or text == expected[seed]
        assert all(error["code"] == "replica_died" for error in errors)
    until_ready(served, 2)
