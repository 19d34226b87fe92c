"""Which files of src/dkv a prompt passes: from `lm.generate` to its tokens, and from an HTTP request to its answer.

    python tools/trace_files.py

Both are real calls on the embedded model, the server's in this process, and every function of dkv that is called counts
for its file. What happens only at import or load does not count. Exits with 1 where a way passes more files than
`LIMITS` says.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import httpx

import dkv
from dkv.server import build

LIMITS: Mapping[str, int] = {"lm.generate": 29, "the server": 37}
"""The most files that each way may pass. The targets are 22 and 32: lower a number here whenever a change allows it."""

PROMPT = "Work out: 2+3, 7*8"
ROOT = f"{Path(dkv.__file__).parent}/"


@contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """Count the calls of functions by file of src/dkv, in this thread and in those that start meanwhile."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        is_function = code.co_flags & inspect.CO_OPTIMIZED  # else the body of a module or class, which an import runs
        if event == "call" and is_function and code.co_filename.startswith(ROOT):
            calls[code.co_filename.removeprefix(ROOT)] += 1

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def generate(lm: dkv.DiffusionLM) -> Counter[str]:
    """The files that a call of `lm.generate` passes, with their calls."""
    with counted_calls() as calls:
        (result,) = lm.generate(PROMPT, gen_length=32, cache="dkv-decode")
    assert result.text  # noqa: S101 - what answered nothing was not traced
    return calls


def serve(lm: dkv.DiffusionLM) -> Counter[str]:
    """The files that a chat completion passes, from the request's body to the answer's, with their calls."""
    return asyncio.run(_serve(lm))


async def _serve(lm: dkv.DiffusionLM) -> Counter[str]:
    service = dkv.Service(dkv.Engine(lm))
    app = build(service, lm)
    body = {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 32}
    with counted_calls() as calls:
        async with service, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://dkv") as client:
            calls.clear()  # of the start
            answer = await client.post("/v1/chat/completions", json=body)
            seen = calls.copy()  # before the stop
    assert answer.json()["choices"][0]["message"]["content"], answer.text  # noqa: S101
    return seen


WAYS: Mapping[str, Callable[[dkv.DiffusionLM], Counter[str]]] = {"lm.generate": generate, "the server": serve}


def exceeded(counts: Mapping[str, int], limits: Mapping[str, int] = LIMITS) -> list[str]:
    """A line for each way that passes more files than allowed."""
    return [
        f"{name}: {count} files, but at most {limits[name]} are allowed by LIMITS in {Path(__file__).name}"
        for name, count in counts.items()
        if count > limits[name]
    ]


def main() -> int:
    """Trace both ways and print their files; 1 where there are too many, else 0."""
    lm = dkv.load("tiny", device="cpu", dtype="float32")
    counts = {}
    for name, trace in WAYS.items():
        calls = trace(lm)
        counts[name] = len(calls)
        print(f"{name}: {len(calls)} files, at most {LIMITS[name]}")
        for path, count in sorted(calls.items()):
            print(f"  {count:7} {path}")
    for line in exceeded(counts):
        print(line, file=sys.stderr)
    return 1 if exceeded(counts) else 0


if __name__ == "__main__":
    sys.exit(main())
