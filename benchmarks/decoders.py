"""What decoders save and cost: forwards an answer and right answers on the embedded model's frozen evaluation sets.

    python benchmarks/decoders.py                                    # every decoder of DECODERS, no cache
    python benchmarks/decoders.py --cache dkv-fill:rows=24 --decoder threshold --decoder credit:alpha=2
    python benchmarks/decoders.py --gen-length 192 --block-length 32 --decoder threshold --cache none --cache dpad

One Markdown row per decoder and cache: forwards and rows an answer, and how many answers are right. The first hundred
examples of each set are left out: settings are chosen on them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, product

from dkv import DiffusionLM, Generation, load
from dkv.lab.eval.questions import as_prompt
from dkv.lab.eval.suites import Problem, embedded

DECODERS = (
    "confidence",
    *(f"threshold:tau={tau}" for tau in (0.9, 0.95, 0.98, 0.99, 0.995)),
    *(f"factor:factor={factor}" for factor in (0.25, 0.5, 1.0)),
    *(f"entropy-bound:gamma={gamma}" for gamma in (0.05, 0.1, 0.3)),
    *("local-leap", "local-leap:tau=0.99,near=0.95"),
    *(f"credit:tau={tau}" for tau in (0.9, 0.95, 0.98, 0.99, 0.995)),
)
"""What is tried where nothing else is asked for."""


def problems(tasks: Sequence[str], count: int, skip: int, gen_length: int | None) -> list[Problem]:
    """Examples of every task, the shortest responses first; gen_length: of all, None = each task's own."""
    every = [p for task in tasks for p in embedded(task, skip + count).problems[skip:]]
    if gen_length:
        every = [replace(p, question=replace(p.question, gen_length=gen_length)) for p in every]
    return sorted(every, key=lambda p: p.question.gen_length)


def row(lm: DiffusionLM, every: Sequence[Problem], decoder: str, cache: str, block: int | None, batch: int) -> str:
    """What one decoder does under one cache, as a row of a table."""
    made: list[Generation] = []
    for length, group in groupby(every, key=lambda p: p.question.gen_length):
        alike = list(group)
        for start in range(0, len(alike), batch):
            part = alike[start : start + batch]
            prompts = [as_prompt(p.question.prompt, lm.tokenizer, p.question.chat) for p in part]
            made += lm.generate(prompts, gen_length=length, block_length=block, decoder=decoder, cache=cache, seed=0)
    right = sum(p.check(g.text or "") for p, g in zip(every, made, strict=True))
    forwards, rows = sum(g.stats.forwards for g in made), sum(g.stats.rows_computed for g in made)
    return f"| `{decoder}` | `{cache}` | {forwards / len(every):.1f} | {rows / len(every):.0f} | {right}/{len(every)} |"


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="words,lists,code", help="embedded tasks, separated by commas")
    parser.add_argument("--count", type=int, default=60, help="examples of each task")
    parser.add_argument("--skip", type=int, default=100, help="examples of each task that are left out before")
    parser.add_argument("--cache", action="append", help="may be repeated; none unless given")
    parser.add_argument("--decoder", action="append", help="may be repeated")
    parser.add_argument("--block-length", type=int, help="all of the response unless given")
    parser.add_argument("--gen-length", type=int, help="each task's own unless given")
    parser.add_argument("--batch", type=int, default=20, help="answers made together")
    args = parser.parse_args()
    lm, every = load("tiny"), problems(args.tasks.split(","), args.count, args.skip, args.gen_length)
    print("| decoder | cache | forwards | rows | right |\n|---|---|---|---|---|", flush=True)
    for decoder, cache in product(args.decoder or DECODERS, args.cache or ["none"]):
        print(row(lm, every, decoder, cache, args.block_length, args.batch), flush=True)


if __name__ == "__main__":
    main()
