"""What 8- and 4-bit weights cost: answers and accuracy beside plain weights, processor time, and bytes.

    python benchmarks/quantize.py --out quantize            # resumable: finished answers are kept
    python benchmarks/quantize.py --out quantize --kinds int8 --count 40

Answers are those of the embedded model to its frozen evaluation sets, each kind in turn on the same batch, so that what
slows the machine down slows all of them. Times of a larger model are of random weights, step about.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from dkv import load
from dkv.lab.bench.grid import Cell
from dkv.lab.bench.measure import interleave
from dkv.lab.bench.runners import runner_of
from dkv.lab.bench.shapes import named_shape, random_model
from dkv.lab.eval.answers import ANSWERS, Asker, common_of, warm_up
from dkv.lab.eval.questions import Setting
from dkv.lab.eval.statistics import Difference, Share
from dkv.lab.eval.suites import Suite, embedded
from dkv.layers.quantized import KINDS
from dkv.loading import find_dtype, loaded_as
from dkv.models import llada
from dkv.storage.jsonl import Store

SETTINGS = [Setting("confidence", "none"), Setting("confidence", "dkv-decode")]
BATCH = 20
DEVICE = torch.device("cpu")


def answer(askers: dict[str, Asker], suite: Suite) -> None:
    """Have every kind answer what its file lacks, batch about."""
    for asker in askers.values():
        warm_up(asker, suite.questions[0], SETTINGS)
    for start in range(0, len(suite.questions), BATCH):
        for asker in askers.values():
            for _ in asker.ask(suite.questions[start : start + BATCH], SETTINGS):
                pass


def line(askers: dict[str, Asker], suite: Suite, setting: Setting, kind: str) -> str:
    """A row of the table of answers."""
    found = {name: [asker.answer(q, setting) for q in suite.questions] for name, asker in askers.items()}
    right = {
        name: [p.check(a["text"]) for p, a in zip(suite.problems, answers, strict=True)]
        for name, answers in found.items()
    }
    plain, mine = found["plain"], found[kind]
    same = sum(a["text"] == b["text"] for a, b in zip(plain, mine, strict=True))
    cpu = sum(a["cpu"] for a in mine) / sum(a["cpu"] for a in plain)
    shown = Share(sum(right[kind]), len(mine))
    cells = (suite.name, setting.cache, kind, str(shown), f"{same}/{len(mine)}")
    return f"| {' | '.join(cells)} | {Difference.of(right[kind], right['plain'])} | {cpu:.2f} |"


def times(spec: str, kinds: list[str], rows: int, repeats: int) -> list[str]:
    """Rows of the table of processor time: random weights of a shape, a prompt and a response of `rows` tokens."""
    config, dtype = named_shape(spec), find_dtype("auto", DEVICE)
    quantize = {"plain": None, **{kind: kind for kind in kinds}}
    lms = {name: loaded_as(random_model(config, dtype, quantize=kind), DEVICE, spec) for name, kind in quantize.items()}
    lines = []
    for batch in (1, 8):
        for cache in ("none", "dkv-decode"):
            cell = Cell(
                model=spec, device="cpu", dtype=str(dtype).removeprefix("torch."), cache=cache, prompt=rows, gen=rows,
                block=rows, steps=rows, batch=batch, decoder="confidence", seed=0, stop_at_eos=False, baseline="",
                threads=torch.get_num_threads(), repeats=repeats,
            )  # fmt: skip
            prompts = [[1 + (i + b) % 1000 for i in range(rows)] for b in range(batch)]
            spent = dict.fromkeys(lms, 0.0)
            for _ in range(repeats):
                took = interleave([runner_of(lm, cell, prompts) for lm in lms.values()], None, DEVICE)
                spent = {name: spent[name] + one.cpu for name, one in zip(lms, took, strict=True)}
            for name, kind in quantize.items():
                size = llada.weight_map(config).nbytes(dtype.itemsize, kind)
                cells = (cache, str(batch), name, f"{size / 1e6:.1f} MB", f"{spent[name] / repeats:.2f} s")
                lines.append(f"| {' | '.join(cells)} | {spent[name] / spent['plain']:.2f} |")
    return lines


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a directory for the answers")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--tasks", nargs="+", default=["words", "lists", "code"])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--shape", default="small,width=1024,heads=16,mlp_width=2752")
    parser.add_argument("--rows", type=int, default=32, help="of the prompt, and of the response, of that shape")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    lms = {"plain": load("tiny", device="cpu"), **{k: load("tiny", device="cpu", quantize=k) for k in given.kinds}}
    stores = {name: Store(given.out / f"{name}.jsonl", common_of(lm, 0), ANSWERS) for name, lm in lms.items()}
    askers = {name: Asker(lm, stores[name], batch_size=BATCH) for name, lm in lms.items()}
    print("| task | cache | weights | accuracy | same text | beside plain | CPU time, plain = 1 |\n" + "|---" * 7 + "|")
    for task in given.tasks:
        suite = embedded(task, given.count)
        answer(askers, suite)
        for setting in SETTINGS:
            print("\n".join(line(askers, suite, setting, kind) for kind in askers), flush=True)
    config = lms["plain"].model.config
    for name, lm in lms.items():
        print(f"{name}: {llada.weight_map(config).nbytes(lm.model.dtype.itemsize, lm.quantize)} bytes")
    print("\n| cache | batch | weights | bytes | CPU seconds | plain = 1 |" + "\n" + "|---" * 6 + "|")
    print("\n".join(times(given.shape, given.kinds, given.rows, given.repeats)))


if __name__ == "__main__":
    main()
