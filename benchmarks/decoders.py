"""What decoders save and cost: forwards an answer and right answers on the embedded model's frozen evaluation sets.

    python benchmarks/decoders.py                                    # every decoder of DECODERS, no cache
    python benchmarks/decoders.py --cache dkv-fill:rows=24 --decoder threshold --decoder credit:alpha=1

One Markdown row per decoder: forwards and rows an answer, and how many answers are right. The examples begin after
those that `dkv tune` races on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import groupby

from dkv import DiffusionLM, Generation, load
from dkv.eval.suite import Problem, embedded
from dkv.eval.turns import as_prompt

DECODERS = (
    "confidence",
    *(f"threshold:tau={tau}" for tau in (0.95, 0.9, 0.8, 0.7)),
    *(f"factor:factor={factor}" for factor in (0.5, 1.0, 1.5)),
    *(f"entropy-bound:gamma={gamma}" for gamma in (0.1, 0.3, 0.5)),
    *(f"local-leap:near={near}" for near in (0.75, 0.6)),
    *(f"credit:alpha={alpha}" for alpha in (0.3, 0.7, 1.0)),
    *(f"klass:tau={tau},kl={kl}" for tau, kl in ((0.6, 0.015), (0.6, 0.05), (0.8, 0.05))),
)
"""What is tried where nothing else is asked for."""


def problems(tasks: Sequence[str], count: int, skip: int) -> list[Problem]:
    """Examples of every task, the shortest responses first."""
    every = [p for task in tasks for p in embedded(task, skip + count).problems[skip:]]
    return sorted(every, key=lambda p: p.question.gen_length)


def row(lm: DiffusionLM, every: Sequence[Problem], decoder: str, cache: str, block: int | None, batch: int) -> str:
    """What one decoder does, as a row of a table."""
    made: list[Generation] = []
    for length, group in groupby(every, key=lambda p: p.question.gen_length):
        alike = list(group)
        for start in range(0, len(alike), batch):
            part = alike[start : start + batch]
            prompts = [as_prompt(p.question.prompt, lm.tokenizer, p.question.chat) for p in part]
            made += lm.generate(prompts, length, block, decoder=decoder, cache=cache, seed=0)
    right = sum(p.check(g.text or "") for p, g in zip(every, made, strict=True))
    forwards, rows = sum(g.stats.forwards for g in made), sum(g.stats.rows_computed for g in made)
    return f"| `{decoder}` | {forwards / len(every):.1f} | {rows / len(every):.0f} | {right}/{len(every)} |"


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="words,lists,code", help="embedded tasks, separated by commas")
    parser.add_argument("--count", type=int, default=60, help="examples of each task")
    parser.add_argument("--skip", type=int, default=100, help="examples of each task that are left out before")
    parser.add_argument("--cache", default="none")
    parser.add_argument("--decoder", action="append", help="may be repeated")
    parser.add_argument("--block-length", type=int)
    parser.add_argument("--batch", type=int, default=20, help="answers made together")
    args = parser.parse_args()
    lm, every = load("tiny"), problems(args.tasks.split(","), args.count, args.skip)
    print("| decoder | forwards | rows | right |\n|---|---|---|---|", flush=True)
    for decoder in args.decoder or DECODERS:
        print(row(lm, every, decoder, args.cache, args.block_length, args.batch), flush=True)


if __name__ == "__main__":
    main()
