"""How texts end on long canvases: the embedded model's evaluation prompts under several ways to lay out a response.

    python benchmarks/endings.py growth --count 10     # a whole canvas, blocks, and a canvas that grows
    python benchmarks/endings.py flood --count 5       # canvases of 64, 128 and 256, with and without eos_penalty

growth prints accuracy (with its count and interval), rows and forwards; flood prints how many responses end, which
share of positions lies after the end, and how much of the text is one repeated stretch.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

from dkv import DiffusionLM, Generation, load
from dkv.lab.eval.statistics import Difference, Share
from dkv.tiny import TASKS, Example, load_eval

N = 4
"""Tokens of the stretches that are looked for twice."""

LAYOUTS: dict[str, tuple[int, bool]] = {
    "one block": (192, False),
    "blocks of 64": (64, False),
    "growing by 64": (64, True),
    "growing by 32": (32, True),
}
"""Block length of a canvas of 192, and whether it grows."""


def repeated(ids: Sequence[int]) -> float:
    """The share of the N-grams of ids that were there before; 0 for fewer than two."""
    grams = Counter(tuple(ids[n : n + N]) for n in range(len(ids) - N + 1))
    count = sum(grams.values())
    return (count - len(grams)) / count if count > 1 else 0.0


def right(examples: Sequence[Example], made: Sequence[Generation]) -> list[bool]:
    """Which answers are right."""
    return [TASKS[e.task].check(e, g.text or "") for e, g in zip(examples, made, strict=True)]


def growth(lm: DiffusionLM, examples: Sequence[Example], decoder: str, cache: str) -> None:
    """One line per layout of a canvas of 192 positions."""
    base: list[bool] = []
    for name, (block, grow) in LAYOUTS.items():
        made = [
            lm.generate(e.prompt, gen_length=192, block_length=block, decoder=decoder, cache=cache, grow=grow, seed=0)[
                0
            ]
            for e in examples
        ]
        found = right(examples, made)
        base = base or found
        rows, forwards = sum(g.stats.rows_computed for g in made), sum(g.stats.forwards for g in made)
        seconds, over = sum(g.stats.seconds for g in made), sum(g.finish_reason == "stop" for g in made)
        by_task = {task: sum(f for f, e in zip(found, examples, strict=True) if e.task == task) for task in TASKS}
        print(f"{name}: right {Share(sum(found), len(found))}, against one block {Difference.of(found, base)}; "
              f"{ {t: n for t, n in by_task.items() if n} }; ended {over}; rows {rows / len(made):.0f}, "
              f"forwards {forwards / len(made):.1f} a response, {seconds:.0f} s", flush=True)  # fmt: skip


def flood(lm: DiffusionLM, examples: Sequence[Example], decoder: str, cache: str, penalties: Sequence[float]) -> None:
    """One line per canvas length and penalty, one block each."""
    for length in (64, 128, 256):
        for penalty in penalties:
            made = [
                lm.generate(e.prompt, gen_length=length, decoder=decoder, cache=cache, eos_penalty=penalty, seed=0)[0]
                for e in examples
            ]
            found = right(examples, made)
            ended = sum(g.finish_reason == "stop" for g in made)
            after = sum(length - g.stats.new_tokens for g in made) / (length * len(made))
            again = [repeated(g.token_ids[: g.stats.new_tokens]) for g in made]
            print(f"{length}, eos_penalty {penalty:g}: ended {Share(ended, len(made))}, after the end {after:.1%}, "
                  f"repeated {N}-grams {sum(again) / len(made):.1%} (most {max(again):.1%}), "
                  f"right {Share(sum(found), len(found))}", flush=True)  # fmt: skip


def main() -> None:
    """Read the arguments and print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["growth", "flood"])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--tasks", nargs="+", default=["words", "code"])
    parser.add_argument("--count", type=int, default=10, help="prompts of each task")
    parser.add_argument("--decoder", default="threshold")
    parser.add_argument("--cache", default="dkv-decode")
    parser.add_argument("--penalties", type=float, nargs="+", default=[0.0, 2.0, 5.0])
    given = parser.parse_args()
    lm = load(given.model, dtype="float32")
    examples = [example for task in given.tasks for example in load_eval(task)[: given.count]]
    if given.what == "growth":
        growth(lm, examples, given.decoder, given.cache)
    else:
        flood(lm, examples, given.decoder, given.cache, given.penalties)


if __name__ == "__main__":
    main()
