"""The client of `vllm bench serve` against `dkv serve`: completions and chat, its random data set.

    python benchmarks/clients/vllm_bench_client.py CACHE

vLLM itself needs a torch with CUDA of gigabytes. Its benchmark client does not: vLLM is installed without what it
depends on, then what this client imports (about 1 GB). `vllm bench serve` calls the same function.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from common import Case, Client, main

VERSIONS = ("0.33.0",)
ROUTES = {"openai": "/v1/completions", "openai-chat": "/v1/chat/completions"}
_COUNT, _TOKENS = 4, 16
_IMPORTED = (
    "apache-tvm-ffi", "cachetools", "cbor2", "cloudpickle", "einops", "llguidance", "msgspec", "openai-harmony",
    "partial-json-parser", "psutil", "py-cpuinfo", "pybase64", "pyzmq", "setuptools", "uvloop", "xgrammar",
)  # fmt: skip
_PROGRAM = """
import argparse
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def packages(version: str) -> list[list[str]]:
    """What to install."""
    return [["aiohttp"], ["--no-deps", f"vllm=={version}", *_IMPORTED]]


def cases(client: Client) -> Iterator[Case]:
    """Every request must succeed, and have as many tokens as were asked for (ignore_eos)."""
    for backend, route in ROUTES.items():
        yield _case(client, backend, route)


def _case(client: Client, backend: str, route: str) -> Case:
    results = f"{backend}.json"
    done = client.run(
        "python", "-c", _PROGRAM, "--backend", backend, "--endpoint", route, "--base-url", client.server, "--model",
        "tiny", "--tokenizer", "tokenizer", "--dataset-name", "random", "--random-input-len", "32",
        "--random-output-len", str(_TOKENS), "--num-prompts", str(_COUNT), "--save-result",
        "--result-filename", results,
    )  # fmt: skip

    def counted() -> tuple[bool, str]:
        found = json.loads((client.folder / results).read_text(encoding="utf-8"))
        right = (found["completed"], found["failed"], found["total_output_tokens"]) == (_COUNT, 0, _COUNT * _TOKENS)
        return right, f"{found['completed']} of {_COUNT}, {found['total_output_tokens']} tokens"

    return client.judge(f"{backend} random", done, counted)


if __name__ == "__main__":
    main("vllm-bench", VERSIONS, packages, cases)
