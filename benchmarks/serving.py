"""A server under load: is every answer right, is nothing left behind, and what do many clients at once gain?

    python benchmarks/serving.py correct --clients 64 --requests 500     # float32: each answer as the request alone
    python benchmarks/serving.py throughput --clients 1 4 16             # tokens/s by the number of clients, and what
                                                                         # the machine itself would gain

It starts `dkv serve` on the embedded model and talks to it over loopback as any client would. `correct` sends requests
of mixed lengths, caches, decoders and temperatures, a share of whose clients leave in the middle of the stream. Exit
code 1 where an answer is wrong, lost or doubled, or a slot or memory is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import torch

import dkv
from dkv.layers.cpu_linear import gated, linear
from dkv.layers.parts import SwiGLU, attention
from dkv.models import Transformer
from dkv.tiny import TASKS, load_eval

CACHES = ("none", "dkv-decode:refresh=4", "dkv-pd", "dllm-cache:kp=10,kr=5", "fast-dual", "dkv-greedy")
DECODERS = ("confidence", "threshold:tau=0.9", "random:seed=3")


@dataclass(frozen=True)
class Job:
    """A request's body, and whether its client leaves after the first piece."""

    body: dict[str, Any]
    leaves: bool


def jobs_of(count: int, leaving: float, seed: int = 0) -> list[Job]:
    """Mixed requests, the same for the same seed."""
    rng = random.Random(seed)
    prompts = [example.prompt for task in TASKS for example in load_eval(task)[:40] if not example.history]
    jobs = []
    for number in range(count):
        block = rng.choice([16, 32])
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": rng.choice(prompts)}],
            "max_tokens": block * rng.randint(1, 3),
            "block_length": block,
            "cache": rng.choice(CACHES),
            "decoder": rng.choice(DECODERS),
            "temperature": rng.choice([0.0, 0.0, 0.7]),
            "seed": number,
            "stream": True,
        }
        jobs.append(Job(body, rng.random() < leaving))
    return jobs


@asynccontextmanager
async def served(*options: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server of its own on a free port, which is told to end afterwards."""
    command = [sys.executable, "-m", "dkv", "serve", "--port", "0", "--max-per-key", "1000", *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        address = await asyncio.to_thread(_address, server)
        async with httpx.AsyncClient(base_url=address, timeout=600, limits=httpx.Limits(max_connections=256)) as client:
            yield client
    finally:
        server.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(server.wait, 60)
    if code:
        raise SystemExit(f"the server ended with {code} on SIGTERM")


def _address(server: subprocess.Popen[str]) -> str:
    if server.stdout is None:
        raise RuntimeError("no output to read")
    for line in server.stdout:
        for word in line.split():
            if word.startswith("http://"):  # with the path of the routes behind it
                return word.rstrip(".,;)").removesuffix("/").removesuffix("/v1")
    raise SystemExit("the server did not say where it listens")


async def ask(client: httpx.AsyncClient, job: Job) -> tuple[str, str] | None:
    """The streamed text and why it ended; None if the client left."""
    text, reason = "", ""
    async with client.stream("POST", "/v1/chat/completions", json=job.body) as response:
        if response.status_code != 200:
            raise SystemExit(f"status {response.status_code}: {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            (choice,) = json.loads(line[6:])["choices"]
            text += choice["delta"].get("content") or ""
            reason = choice["finish_reason"] or reason
            if job.leaves and text:
                return None
    return text, reason


async def load(client: httpx.AsyncClient, jobs: Sequence[Job], clients: int) -> list[tuple[str, str] | None]:
    """All jobs, by so many clients at once, each taking the next one when it is done."""
    results: list[tuple[str, str] | None] = [None] * len(jobs)
    todo = iter(enumerate(jobs))

    async def one() -> None:
        for number, job in todo:
            results[number] = await ask(client, job)

    await asyncio.gather(*(one() for _ in range(clients)))
    return results


async def figures(client: httpx.AsyncClient) -> dict[str, float]:
    """The server's metrics without labels."""
    lines = (await client.get("/metrics")).text.splitlines()
    pairs = [line.split() for line in lines if line and not line.startswith("#") and "{" not in line]
    return {name: float(value) for name, value in pairs}


async def correct(clients: int, count: int, leaving: float) -> int:
    """Load, then every answer against the same request alone."""
    jobs = jobs_of(count, leaving)
    async with served(
        "--dtype", "float32", "--active", str(clients), "--waiting", "1000", "--memory", "400MB"
    ) as client:
        before = await figures(client)
        began = time.perf_counter()
        results = await load(client, jobs, clients)
        seconds = time.perf_counter() - began
        for _ in range(100):
            after = await figures(client)
            if not after["dkv_requests_active"]:
                break
            await asyncio.sleep(0.1)
    lm, wrong = dkv.load("tiny", dtype="float32"), 0
    for job, result in zip(jobs, results, strict=True):
        body = job.body
        (alone,) = lm.generate(
            body["messages"],
            gen_length=body["max_tokens"],
            block_length=body["block_length"],
            temperature=body["temperature"],
            seed=body["seed"],
            cache=body["cache"],
            decoder=body["decoder"],
        )
        if result is None and job.leaves:
            continue
        if result != (alone.text, alone.finish_reason):
            wrong += 1
            print(f"wrong: {body}\n  served {result}\n  alone  {(alone.text, alone.finish_reason)}")
    left = sum(result is None for result in results)
    started = after["dkv_requests_started_total"] - before.get("dkv_requests_started_total", 0)
    kept = {name: after[name] for name in ("dkv_requests_active", "dkv_requests_waiting", "dkv_cache_bytes")}
    leaked = any(kept[name] != before.get(name, 0) for name in kept)
    print(f"{count} requests by {clients} clients in {seconds:.0f} s: {count - left} answers, {left} clients left")
    print(f"wrong {wrong}; started {started:.0f}; afterwards {kept}")
    return int(bool(wrong or leaked or started != count))


@torch.inference_mode()
def machine_gain(model: Transformer, rows: int, keys: int, many: int) -> float:
    """How many times faster a row is in the products and attention of `many` sequences at once than in those of one,
    with nothing else: no norms, no rotation, no cache, no plan, no decoder. rows: of a sequence; keys: it reads."""
    seconds = {batch: _bare_seconds(model, rows, keys, batch) for batch in (1, many)}
    return many * seconds[1] / seconds[many]


def _bare_seconds(model: Transformer, rows: int, keys: int, batch: int) -> float:
    c, dtype = model.config, model.dtype
    x, wide = torch.randn(batch * rows, c.width, dtype=dtype), torch.randn(batch * rows, c.mlp_width, dtype=dtype)
    q = torch.randn(batch, c.heads, rows, c.head_dim, dtype=dtype)
    k, v = torch.randn(2, batch, c.kv_heads, keys, c.head_dim, dtype=dtype)
    passed = []
    for _ in range(30):
        began = time.perf_counter()
        for block in model.blocks:
            part, mlp = block.attention, block.feed_forward
            assert isinstance(mlp, SwiGLU)
            for weight in (part.qk_weight, part.v_weight, part.out_weight):
                linear(x, weight)
            gated(x, mlp.gate_up_weight)
            linear(wide, mlp.down_weight)
            attention(q, k, v, None)
        passed.append(time.perf_counter() - began)
    return statistics.median(passed[5:])


async def throughput(counts: Sequence[int], requests: int, cache: str, dtype: str) -> int:
    """Tokens/s of one request after another, and of several clients at once."""
    plain = [Job({**job.body, "cache": cache, "decoder": "confidence", "temperature": 0.0}, False)
             for job in jobs_of(requests, 0.0)]  # fmt: skip
    first = 0.0
    rows = keys = 0
    async with served("--active", str(max(counts)), "--waiting", "1000", "--dtype", dtype) as client:
        await load(client, plain[:4], 2)
        for clients in counts:
            before, began = await figures(client), time.perf_counter()
            await load(client, plain[: max(8, requests // (1 if clients > 1 else 4))], clients)
            seconds = time.perf_counter() - began
            after = await figures(client)
            tokens = after["dkv_tokens_total"] - before["dkv_tokens_total"]
            steps = after["dkv_steps_total"] - before["dkv_steps_total"]
            busy = after["dkv_step_seconds_total"] - before["dkv_step_seconds_total"]
            rate = tokens / seconds
            first = first or rate
            if clients == 1:
                computed, saved = (
                    (after[name] - before[name]) / steps for name in ("dkv_rows_computed_total", "dkv_rows_saved_total")
                )
                rows, keys = round(computed), round(computed + saved)
            print(
                f"{clients:3d} clients: {rate:7.1f} tokens/s, {rate / first:.2f}x; "
                f"{1000 * busy / steps:.1f} ms a step, engine busy {busy / seconds:.0%}"
            )
    model = dkv.load("tiny", dtype=dtype).model
    if isinstance(model, Transformer) and rows:
        gain = machine_gain(model, rows, keys, max(counts))
        print(f"{rows} rows of {keys} a step of one; the machine itself, products and attention alone: {gain:.2f}x")
    return 0


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    right = kinds.add_parser("correct")
    right.add_argument("--clients", type=int, default=64)
    right.add_argument("--requests", type=int, default=500)
    right.add_argument("--leaving", type=float, default=0.1, help="share of clients that leave in mid-stream")
    fast = kinds.add_parser("throughput")
    fast.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    fast.add_argument("--requests", type=int, default=64)
    fast.add_argument("--cache", default="dkv-decode:refresh=4")
    fast.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    if given.kind == "correct":
        return asyncio.run(correct(given.clients, given.requests, given.leaving))
    return asyncio.run(throughput(given.clients, given.requests, given.cache, given.dtype))


if __name__ == "__main__":
    sys.exit(main())
