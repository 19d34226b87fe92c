"""aiperf against `dkv serve`: chat, streamed, with the lengths that it asks for.

python benchmarks/clients/aiperf_client.py CACHE
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from common import REPOSITORY, Case, Client, main

VERSIONS = ("0.13.0",)
_COUNT = 4


def packages(version: str) -> list[list[str]]:
    """What to install."""
    return [[f"aiperf=={version}"]]


def cases(client: Client) -> Iterator[Case]:
    """Every request must succeed."""
    done = client.run(
        "aiperf", "profile", "--model", "tiny", "--url", client.server, "--endpoint-type", "chat", "--streaming",
        "--tokenizer", REPOSITORY, "--request-count", str(_COUNT), "--concurrency", "2",
        "--synthetic-input-tokens-mean", "32", "--output-tokens-mean", "16", "--extra-inputs", "ignore_eos:true",
        "--ui", "none",
    )  # fmt: skip

    def counted() -> tuple[bool, str]:
        (found,) = client.folder.rglob("profile_export_aiperf.json")
        summary = json.loads(found.read_text(encoding="utf-8"))
        count = summary["request_count"]["avg"]
        failed = (summary.get("error_request_count") or {"avg": 0})["avg"]
        return (count, failed) == (_COUNT, 0), f"{count:g} of {_COUNT}, {failed:g} errors"

    yield client.judge("chat, streamed", done, counted)


if __name__ == "__main__":
    main("aiperf", VERSIONS, packages, cases)
