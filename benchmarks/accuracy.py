"""Accuracy of the embedded model by cache policy, on its frozen evaluation sets, as a Markdown table.

    python benchmarks/accuracy.py --out accuracy.jsonl        # resumable: finished (task, setting) pairs are kept
    python benchmarks/accuracy.py --out accuracy.jsonl --table

One token a step, one block as long as the response, temperature 0. Beside each accuracy stand its count, its 95%
Wilson interval, the share of examples whose text equals that of no cache with the same decoder, and the share of rows
computed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from dkv import DiffusionLM, load
from dkv.eval.answers import Asker
from dkv.eval.run import gather
from dkv.eval.run import run as evaluate
from dkv.eval.settings import Setting
from dkv.eval.statistics import Share
from dkv.eval.store import Store
from dkv.eval.suite import embedded
from dkv.tiny import TASKS

SETTINGS = [
    Setting("confidence", "none"),
    Setting("confidence", "dkv-decode:refresh=4"),
    Setting("confidence", "dkv-decode:refresh=8"),
    Setting("confidence", "dkv-decode:refresh=16"),
    Setting("confidence", "dkv-decode:refresh=4,delay=0"),
    Setting("confidence", "dkv-decode:refresh=8,delay=0"),
    Setting("confidence", "dkv-decode:refresh=16,delay=0"),
    Setting("confidence", "dkv-decode:refresh=4,delay=2"),
    Setting("confidence", "dkv-decode:refresh=8,delay=2"),
    Setting("confidence", "dkv-decode:refresh=16,delay=2"),
    Setting("confidence", "dkv-prefill"),
    Setting("confidence", "dkv-pd"),
    Setting("random:seed=1", "none"),
    Setting("random:seed=1", "dkv-greedy:refresh=2,window=4"),
    Setting("random:seed=1", "dkv-greedy:refresh=8,window=4"),
    Setting("confidence", "dkv-greedy:refresh=2,window=4"),
    Setting("confidence", "dkv-greedy:refresh=8,window=4"),
    Setting("confidence", "dllm-cache:rho=0"),
    Setting("confidence", "dllm-cache:rho=0.1"),
    Setting("confidence", "dllm-cache:rho=0.25"),
    Setting("confidence", "dllm-cache:rho=0.5"),
    Setting("confidence", "dllm-cache:rho=0.25,similarity=l2"),
    Setting("confidence", "none", cfg_scale=0.5),
    Setting("confidence", "dkv-decode:refresh=4", cfg_scale=0.5),
    Setting("confidence", "dllm-cache:rho=0.25", cfg_scale=0.5),
    Setting("confidence", "dllm-cache:rho=0.25,cfg_interval=3", cfg_scale=0.5),
    Setting("confidence", "none", block_length=16),
    Setting("confidence", "fast-prefix", block_length=16),
    Setting("confidence", "fast-dual", block_length=16),
    Setting("threshold:tau=0.9", "none", block_length=16),
    Setting("threshold:tau=0.9", "fast-dual", block_length=16),
]
"""The rows, in the table's order."""


def run(lm: DiffusionLM, task: str, setting: Setting, count: int, batch_size: int) -> dict[str, Any]:
    """Generate and check one task under one setting."""
    suite = embedded(task, count)
    asker = Asker(lm, Store(None, {}), batch_size=batch_size)
    for _ in evaluate(asker, suite, [setting]):
        pass
    outcomes = gather(asker.store, suite, [setting])[0].outcomes.values()
    rows = sum(o.rows for o in outcomes) / sum(o.rows_total for o in outcomes)
    right, texts = [o.value == 1 for o in outcomes], [o.output for o in outcomes]
    return {"task": task, **asdict(setting), "right": right, "texts": texts, "rows": rows}


def _key(record: dict[str, Any]) -> tuple[Setting, str]:
    """Which cell of the table a record fills."""
    known = {f.name: record[f.name] for f in fields(Setting) if f.name in record}
    return Setting(**known), record["task"]


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: a row per setting, a column per task."""
    found = {_key(r): r for r in results}
    tasks = [t for t in TASKS if any(task == t for _, task in found)]
    lines = ["| decoder | cache | " + " | ".join(tasks) + " |", "|---" * (2 + len(tasks)) + "|"]
    for setting in SETTINGS:
        cells = [_cell(found.get((setting, task)), found.get((setting.base, task))) for task in tasks]
        if any(cells):
            lines.append(f"| {setting} | {setting.cache} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(result: dict[str, Any] | None, base: dict[str, Any] | None) -> str:
    if result is None or base is None:
        return ""
    count = len(result["right"])
    same = sum(a == b for a, b in zip(result["texts"], base["texts"], strict=True)) / count
    return f"{Share(sum(result['right']), count)}, agree {same:.1%}, rows {result['rows']:.0%}"


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=40)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--settings", type=int, nargs="+", default=range(len(SETTINGS)), help="only these, by number")
    parser.add_argument("--merge", type=Path, nargs="*", default=[], help="further result files for the table")
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    given = parser.parse_args()
    files = [path for path in (given.out, *given.merge) if path.exists()]
    results = [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    done = {_key(r) for r in results}
    lm = None if given.table else load(given.model, dtype=given.dtype)
    for setting in (SETTINGS[i] for i in given.settings):
        for task in given.tasks:
            if lm is None or (setting, task) in done:
                continue
            results.append(run(lm, task, setting, given.count, given.batch_size))
            with given.out.open("a", encoding="utf-8") as out:
                print(json.dumps(results[-1]), file=out)
            print(setting, setting.cache, task, f"{sum(results[-1]['right'])}/{len(results[-1]['right'])}", flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
