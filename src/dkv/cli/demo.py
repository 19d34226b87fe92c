"""The demonstration: one problem for the embedded model, without a cache, with dKV-Cache, and with our own cache and a
decoder that fixes several tokens a step.

`python -m dkv.cli.demo`, which is what `make demo` runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from rich.console import Console

import dkv
from dkv.tiny import TASKS, load_eval

__all__ = ["main", "next_steps"]

EXAMPLE = 0
"""Which problem of the frozen evaluation set."""

WAYS = (("none", "confidence"), ("dkv-decode", "confidence"), ("dkv-fill:rows=40", "threshold:tau=0.999"))
"""Caches and decoders; what the last one costs in accuracy stands in docs/speed.md."""

_QUESTION = "Mia has 3 bags with 4 eggs in each. Later Mia finds 5 more eggs. How many eggs does Mia have now?"

REPEATS = 5
"""Timed runs of each, in turn; the median is shown."""


def main() -> None:
    """Print the problem, and for each way the worked answer, whether it is right, and its speed."""
    torch.set_num_threads(1)  # so small a model is slower on several, on a busy machine many times
    console = Console(highlight=False)
    example = load_eval("words")[EXAMPLE]
    print("loading tiny ...", file=sys.stderr, flush=True)
    lm = dkv.load("tiny")
    print(f"one problem, {len(WAYS)} ways, {REPEATS + 1} runs of each on one core ...", file=sys.stderr, flush=True)
    console.print(f"[bold]Problem[/]: {example.prompt}\n")
    runs: dict[tuple[str, str], list[dkv.Generation]] = {way: [] for way in WAYS}
    for _ in range(REPEATS + 1):
        for (cache, decoder), made in runs.items():
            made += lm.generate(example.prompt, gen_length=example.gen_length, cache=cache, decoder=decoder)
    for (cache, decoder), made in runs.items():
        result = sorted(made[1:], key=lambda g: g.stats.seconds)[REPEATS // 2]  # the first run also builds kernels
        text, stats = result.text or "", result.stats
        verdict = "right" if TASKS["words"].check(example, text) else "wrong"
        way = cache if decoder == lm.model.config.default_decoder else f"{cache}, {decoder}"
        console.print(f"[bold]{way}[/] ({verdict})\n{text}")
        console.print(
            f"{stats.new_tokens} tokens in {stats.forwards} steps, {stats.seconds:.2f} s, "
            f"[bold]{stats.tokens_per_second:.1f} tokens/s[/], {stats.rows_computed / stats.rows_total:.0%} of rows\n"
        )
    for line in next_steps(_command("dkv"), _command("pip")):
        print(line)


def next_steps(dkv_command: str, pip_command: str) -> list[str]:
    """What to type after the demonstration. The arguments: how the two programs are called here."""
    lines = [
        "Next:",
        f'  {dkv_command} generate "{_QUESTION}" --gen-length 64 --live',
        f"  {dkv_command} caches",
        f"  {pip_command} install 'dkv[serve]' && {dkv_command} serve    # then open http://127.0.0.1:8000",
    ]
    if dkv_command != "dkv":
        lines.append(f"  source {Path(dkv_command).with_name('activate')}    # from then on the command is just dkv")
    return lines


def _command(name: str) -> str:
    """How a program of this environment is called from here: by its path, if it has one, as short as can be."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        return name
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    main()
