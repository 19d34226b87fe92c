"""The embedded model: every policy against no cache, over prompt and gen lengths.

    python benchmarks/speed.py

One process, one thread, process CPU time. Both run interleaved, a step each in turn, so that a change of the machine's
speed meets both. `benchmarks/bare.py` has larger models against bare forwards.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import TextIO

import torch
from bare import Case, begin, seconds

from dkv.core.loop import advance
from dkv.loading import load
from dkv.models import Transformer

POLICIES = ("dkv-decode", "dkv-prefill", "dkv-pd", "dkv-greedy:refresh=8,window=4", "dkv-fill")


def against_none(model: Transformer, spec: str, case: Case) -> tuple[float, float, int, int]:
    """CPU seconds of `none` and of a policy, step about, and the rows that each computed.

    Both use the decoder that the policy needs, so that they read and commit alike.
    """
    policy, none = begin(model, spec, case), begin(model, "none", case)
    none.decoder = policy.decoder
    spent, rows = [0.0, 0.0], [0, 0]
    for step in range(case.steps):
        # Whoever goes second finds warm caches: take turns.
        for which in (0, 1) if step % 2 else (1, 0):
            took, tick = seconds(lambda s=(none, policy)[which]: advance(s))  # type: ignore[misc]
            spent[which] += took
            rows[which] += sum(tick.counts)  # type: ignore[attr-defined]
    return spent[0], spent[1], rows[0], rows[1]


def table(log: TextIO, prompts: list[int], lengths: list[int], repeats: int) -> None:
    """Each cell the median of `repeats`."""
    model = load("tiny").model
    if not isinstance(model, Transformer):
        raise TypeError
    print(f"| prompt | gen | {' | '.join(f'`{spec}`' for spec in POLICIES)} |\n|---|---|{'---|' * len(POLICIES)}")
    for prompt in prompts:
        for length in lengths:
            cells = []
            for spec in POLICIES:
                against_none(model, spec, Case(1, prompt, length, 8))
                runs = [against_none(model, spec, Case(1, prompt, length, length)) for _ in range(repeats)]
                ratio = statistics.median(none / policy for none, policy, _, _ in runs)
                cells.append(f"{ratio:.2f}x ({runs[0][2] / runs[0][3]:.1f}x)")
                print(json.dumps({"prompt": prompt, "gen": length, "cache": spec, "runs": runs}), file=log, flush=True)
            print(f"| {prompt} | {length} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="speed.jsonl", help="every measurement is appended here")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--prompts", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--gens", type=int, nargs="+", default=[32, 128, 256])
    given = parser.parse_args()
    torch.set_num_threads(1)
    with open(given.out, "a", encoding="utf-8") as log:
        table(log, given.prompts, given.gens, given.repeats)


if __name__ == "__main__":
    main()
