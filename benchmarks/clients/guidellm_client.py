"""guidellm against `dkv serve`: its synthetic text, streamed, by both of its request types.

python benchmarks/clients/guidellm_client.py CACHE
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from common import Case, Client, main

VERSIONS = ("0.8.1",)
_COUNT = 6


def packages(version: str) -> list[list[str]]:
    """What to install."""
    return [[f"guidellm=={version}"]]


def cases(client: Client) -> Iterator[Case]:
    """Every request must succeed."""
    done = client.run(
        "guidellm", "run", "--backend", f"kind=openai_http,target={client.server}", "--profile",
        "kind=concurrent,streams=2", "--constraint", f"kind=max_requests,count={_COUNT}", "--data",
        "kind=synthetic_text,prompt_tokens=32,output_tokens=32", "--tokenizer", "kind=hf_auto,model=tokenizer",
    )  # fmt: skip

    def counted() -> tuple[bool, str]:
        found = json.loads((client.folder / "benchmarks.json").read_text(encoding="utf-8"))
        totals = found["benchmarks"][0]["metrics"]["request_totals"]
        return totals["successful"] == _COUNT == totals["total"], f"{totals['successful']} of {_COUNT}"

    yield client.judge("synthetic text", done, counted)


if __name__ == "__main__":
    main("guidellm", VERSIONS, packages, cases)
